// Tensor entry points of neighbour attention.
#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace edgewise {

using at::Tensor;
using std::optional;

namespace {

optional<Tensor> packed(const optional<Tensor>& t) {
  return t ? optional<Tensor>(t->contiguous()) : std::nullopt;
}

// Head width up to the next multiple of 16, of 32 from there on.
Tensor pad_heads(const Tensor& t) { return pad_last(t, t.size(-1) <= 16 ? 16 : 32); }

void check(const Tensor& q, const Tensor& x) {
  TORCH_CHECK(q.size(1) <= 64, "at most 64 heads are supported, got ", q.size(1));
  TORCH_CHECK(x.size(1) <= 8, "at most 8 coordinates are supported, got ", x.size(1));
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(
    const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& x_in,
    const Tensor& src, const Tensor& ptr, const Tensor& w_in, const optional<Tensor>& gate_in,
    double beta, const optional<Tensor>& bias_in) {
  check(q_in, x_in);
  const int64_t N = q_in.size(0), H = q_in.size(1), D = q_in.size(2), C = x_in.size(1);
  const Tensor q = pad_heads(q_in), k = pad_heads(k_in), v = pad_heads(v_in);
  const Tensor x = x_in.contiguous(), w = w_in.contiguous();
  const auto gate = packed(gate_in), bias = packed(bias_in);
  Tensor out = at::empty_like(q), dx = at::empty_like(x);
  Tensor lse = at::empty({N, H}, q.options()), moment = at::empty({N, H, C}, q.options());
  EDGEWISE_DISPATCH(q, src, "edgewise::attention", {
    const AttentionArgs<T, I> args{
        H, q.size(2), C, static_cast<T>(1 / std::sqrt(double(D))), static_cast<T>(beta),
        src.const_data_ptr<I>(), ptr.const_data_ptr<int64_t>(), q.const_data_ptr<T>(),
        k.const_data_ptr<T>(), v.const_data_ptr<T>(), x.const_data_ptr<T>(),
        w.const_data_ptr<T>(), pointer<T>(gate), pointer<T>(bias), out.data_ptr<T>(),
        dx.data_ptr<T>(), lse.data_ptr<T>(), moment.data_ptr<T>()};
    parallel_rows(args.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention(args, begin, end);
    });
  });
  return {out.size(-1) == D ? out : out.slice(-1, 0, D).contiguous(), dx, lse, moment};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out_in, const Tensor& grad_dx_in, const Tensor& q_in, const Tensor& k_in,
    const Tensor& v_in, const Tensor& x_in, const Tensor& src, const Tensor& dst,
    const Tensor& ptr, const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_in,
    const optional<Tensor>& gate_in, double beta, const optional<Tensor>& bias_in,
    const Tensor& out_in, const Tensor& lse, const Tensor& moment) {
  const int64_t N = q_in.size(0), H = q_in.size(1), D = q_in.size(2), C = x_in.size(1);
  const int64_t E = src.size(0);
  const Tensor q = pad_heads(q_in), k = pad_heads(k_in), v = pad_heads(v_in);
  const Tensor out = pad_heads(out_in), grad_out = pad_heads(grad_out_in);
  const Tensor x = x_in.contiguous(), w = w_in.contiguous(), grad_dx = grad_dx_in.contiguous();
  const auto gate = packed(gate_in), bias = packed(bias_in);
  Tensor dq = at::empty_like(q), dk = at::empty_like(q), dv = at::empty_like(q);
  Tensor dw = at::empty_like(w);
  Tensor dx = at::empty_like(x), state = at::empty({N, H, 2 + C}, q.options());
  Tensor dgate = at::empty({gate ? E : 0}, q.options());
  Tensor dbias = at::empty({bias ? E : 0, H}, q.options());
  EDGEWISE_DISPATCH(q, src, "edgewise::attention_backward", {
    const AttentionArgs<T, I> fwd{
        H, q.size(2), C, static_cast<T>(1 / std::sqrt(double(D))), static_cast<T>(beta),
        src.const_data_ptr<I>(), ptr.const_data_ptr<int64_t>(), q.const_data_ptr<T>(),
        k.const_data_ptr<T>(), v.const_data_ptr<T>(), x.const_data_ptr<T>(),
        w.const_data_ptr<T>(), pointer<T>(gate), pointer<T>(bias),
        const_cast<T*>(out.const_data_ptr<T>()), nullptr, const_cast<T*>(lse.const_data_ptr<T>()),
        const_cast<T*>(moment.const_data_ptr<T>())};
    const AttentionGradArgs<T, I> args{
        fwd, dst.const_data_ptr<I>(), rev_edge.const_data_ptr<I>(),
        rev_ptr.const_data_ptr<int64_t>(), grad_out.const_data_ptr<T>(),
        grad_dx.const_data_ptr<T>(), state.data_ptr<T>(), dq.data_ptr<T>(),
        dk.data_ptr<T>(), dv.data_ptr<T>(), gate ? dgate.data_ptr<T>() : nullptr,
        bias ? dbias.data_ptr<T>() : nullptr, dx.data_ptr<T>()};
    parallel_rows(fwd.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention_grad_dst(args, begin, end);
    });
    // dW[h, c, c'] = sum_i grad_dx[i, c] moment[i, h, c'], one after another in double precision
    std::vector<double> sum(H * C * C);
    const T* moments = moment.const_data_ptr<T>();
    for (int64_t i = 0; i < N; ++i)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t n = 0; n < C * C; ++n)
          sum[h * C * C + n] += double(args.grad_dx[i * C + n / C]) *
              double(moments[(i * H + h) * C + n % C]);
    std::copy(sum.begin(), sum.end(), dw.data_ptr<T>());
    parallel_rows(args.rev_ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().attention_grad_src(args, begin, end);
    });
  });
  auto trim = [&](const Tensor& t) {
    return t.size(-1) == D ? t : t.slice(-1, 0, D).contiguous();
  };
  return {trim(dq), trim(dk), trim(dv), dx, dw, dgate, dbias};
}

}  // namespace edgewise
