// Tensor entry points of neighbour attention.
#include <cmath>
#include <cstring>
#include <tuple>

#include "displacement.h"
#include "kernels.h"
#include "ops.h"
#include "parallel.h"
#include "tensors.h"

namespace edgewise {

using std::optional;

namespace {

// Head width up to the next multiple of 16, of 32 from there on.
Tensor pad_heads(const Tensor& t) { return pad_last(t, t.size(-1) <= 16 ? 16 : 32); }

// The rows of the kernels' tables, in the order of their places.
Tensor placed(const Tensor& t, const optional<Tensor>& rows) {
  return gather_rows(pad_heads(t), rows);
}

// What edges have, in-edges of a node together, between the order of the caller and that of places:
// the in-edges of place i are ptr[i] to ptr[i + 1] here and begin at first[i] there.
Tensor move_edges(const Tensor& t, const Tensor& ptr, const Tensor& first, bool to_places) {
  if (t.numel() == 0) return t;
  Tensor out = new_like(t);
  const int64_t bytes = t.numel() / t.size(0) * t.element_size();
  const int64_t *place = data_of<int64_t>(ptr), *caller = data_of<int64_t>(first);
  const char* from = static_cast<const char*>(t.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  parallel_rows(place, first.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t there = to_places ? place[i] : caller[i];
      const int64_t here = to_places ? caller[i] : place[i];
      std::memcpy(to + there * bytes, from + here * bytes, (place[i + 1] - place[i]) * bytes);
    }
  });
  return out;
}
optional<Tensor> to_places(
    const optional<Tensor>& t, const Tensor& ptr, const optional<Tensor>& first) {
  const auto given = packed(t);
  return given && first ? move_edges(*given, ptr, *first, true) : given;
}
Tensor from_places(const Tensor& t, const Tensor& ptr, const optional<Tensor>& first) {
  return first ? move_edges(t, ptr, *first, false) : t;
}

// Of the products of queries and keys; those of width 0 are 0.
template <class T>
T scale_of(int64_t width) {
  return static_cast<T>(width == 0 ? 1.0 : 1 / std::sqrt(double(width)));
}

int64_t ahead_in(const Tensor& t) { return rows_ahead(t.numel() * t.element_size()); }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(
    const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& x_in,
    const Tensor& src, const Tensor&, const Tensor& ptr, const Tensor&, const Tensor&,
    const Tensor& w_in, const optional<Tensor>& gate_in, double beta,
    const optional<Tensor>& bias_in, const optional<Tensor>& rows, const optional<Tensor>& first) {
  require_sizes(q_in.size(1), x_in.size(1));
  const int64_t N = q_in.size(0), H = q_in.size(1), D = q_in.size(2), C = x_in.size(1);
  const Tensor q = placed(q_in, rows), k = placed(k_in, rows), v = placed(v_in, rows);
  const Tensor x = gather_rows(x_in, rows), w = packed(w_in);
  const auto gate = to_places(gate_in, ptr, first), bias = to_places(bias_in, ptr, first);
  Tensor out = new_like(q), dx = new_like(x);
  Tensor lse = empty({N, H}, q), moment = empty({N, H, C}, q);
  with_types(q, src, "edgewise::attention", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const AttentionArgs<T, I> args{
        H, q.size(2), C, ahead_in(q), scale_of<T>(D), static_cast<T>(beta),
        data_of<int64_t>(rows), data_of<I>(src), data_of<int64_t>(ptr), data_of<T>(q),
        data_of<T>(k), data_of<T>(v), data_of<T>(x),
        data_of<T>(w), data_of<T>(gate), data_of<T>(bias), mutable_data_of<T>(out),
        mutable_data_of<T>(dx), mutable_data_of<T>(lse), mutable_data_of<T>(moment)};
    parallel_rows(args.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention(args, begin, end);
    });
  });
  return {resize_last(out, D), dx, lse, moment};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out_in, const Tensor& grad_dx_in, const Tensor& q_in, const Tensor& k_in,
    const Tensor& v_in, const Tensor& x_in, const Tensor& src, const Tensor& dst,
    const Tensor& ptr, const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_in,
    const optional<Tensor>& gate_in, double beta, const optional<Tensor>& bias_in,
    const optional<Tensor>& rows, const optional<Tensor>& first, const Tensor& out_in,
    const Tensor& lse, const Tensor& moment) {
  const int64_t N = q_in.size(0), H = q_in.size(1), D = q_in.size(2), C = x_in.size(1);
  const int64_t E = src.size(0);
  const Tensor q = placed(q_in, rows), k = placed(k_in, rows), v = placed(v_in, rows);
  const Tensor out = pad_heads(out_in), grad_out = placed(grad_out_in, rows);
  const Tensor x = gather_rows(x_in, rows), w = packed(w_in), grad_dx = packed(grad_dx_in);
  const auto gate = to_places(gate_in, ptr, first), bias = to_places(bias_in, ptr, first);
  Tensor dq = new_like(q), dk = new_like(q), dv = new_like(q);
  Tensor dw = new_like(w);
  Tensor dx = new_like(x), state = empty({N, H, 2 + C}, q);
  Tensor dgate = empty({gate ? E : 0}, q);
  Tensor dbias = empty({bias ? E : 0, H}, q);
  with_types(q, src, "edgewise::attention_backward", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const AttentionArgs<T, I> fwd{
        H, q.size(2), C, ahead_in(q), scale_of<T>(D), static_cast<T>(beta),
        data_of<int64_t>(rows), data_of<I>(src), data_of<int64_t>(ptr), data_of<T>(q),
        data_of<T>(k), data_of<T>(v), data_of<T>(x),
        data_of<T>(w), data_of<T>(gate), data_of<T>(bias),
        const_cast<T*>(data_of<T>(out)), nullptr, const_cast<T*>(data_of<T>(lse)),
        const_cast<T*>(data_of<T>(moment))};
    const AttentionGradArgs<T, I> args{
        fwd, E, data_of<I>(dst), data_of<I>(rev_edge),
        data_of<int64_t>(rev_ptr), data_of<T>(grad_out),
        data_of<T>(grad_dx), mutable_data_of<T>(state), mutable_data_of<T>(dq),
        mutable_data_of<T>(dk), mutable_data_of<T>(dv),
        gate ? mutable_data_of<T>(dgate) : nullptr,
        bias ? mutable_data_of<T>(dbias) : nullptr, mutable_data_of<T>(dx)};
    parallel_rows(fwd.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention_grad_dst(args, begin, end);
    });
    grad_of_w_x(N, H, C, args.grad_dx, data_of<T>(moment), mutable_data_of<T>(dw));
    parallel_rows(args.rev_ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention_grad_src(args, begin, end);
    });
  });
  return {
      resize_last(dq, D), resize_last(dk, D), resize_last(dv, D), dx, dw,
      from_places(dgate, ptr, first), from_places(dbias, ptr, first)};
}

}  // namespace edgewise
