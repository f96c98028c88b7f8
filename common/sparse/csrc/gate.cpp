// Tensor entry points of the edge gate.  The node parts of the first layer come in as tensors, so
// the two products per node and their gradients are ordinary matrix products outside.
#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "parallel.h"
#include "tensors.h"

namespace edgewise {

namespace {

constexpr int64_t kSlots = 32;  // fixed, so that sums over edges do not depend on the threads
constexpr int64_t kBlock = 32768;  // edges whose source gradients wait for their scatter

// to[i][j][k] = from[i][j][k] for all indices below `sizes`, each array with its strides.
struct Strides {
  int64_t i, j, k;
};
template <class T>
void copy(const T* from, Strides f, T* to, Strides t, Strides sizes) {
  for (int64_t i = 0; i < sizes.i; ++i)
    for (int64_t j = 0; j < sizes.j; ++j)
      for (int64_t k = 0; k < sizes.k; ++k)
        to[i * t.i + j * t.j + k * t.k] = from[i * f.i + j * f.j + k * f.k];
}

// The inputs as kernels.h wants them: w_in (M, 2F) becomes (2 Fp, Mp) with the two halves padded
// apart, w_mid its transpose (Mp, Mp), the other arrays have F or M padded.
struct Padded {
  Tensor h, at_dst, at_src, w_in, w_mid, b_mid, w_out;
  int64_t F, M, features, hidden;  // widths, and the same padded
};

template <class T>
Padded pad(
    const Tensor& at_dst, const Tensor& at_src, const Tensor& h, const Tensor& w_in_any,
    const Tensor& w_mid_any, const Tensor& b_mid, const Tensor& w_out) {
  const Tensor w_in = packed(w_in_any), w_mid = packed(w_mid_any);
  Padded p;
  p.h = pad_last(h, kPad);
  p.at_dst = pad_last(at_dst, kPad);
  p.at_src = pad_last(at_src, kPad);
  p.b_mid = pad_last(b_mid, kPad);
  p.w_out = pad_last(w_out, kPad);
  p.F = h.size(1), p.M = at_dst.size(1);
  p.features = p.h.size(1), p.hidden = p.at_dst.size(1);
  p.w_in = zeros({2 * p.features, p.hidden}, h);
  p.w_mid = zeros({p.hidden, p.hidden}, h);
  copy(data_of<T>(w_in), {p.F, 1, 2 * p.F}, mutable_data_of<T>(p.w_in),
       {p.features * p.hidden, p.hidden, 1}, {2, p.F, p.M});
  copy(data_of<T>(w_mid), {0, 1, p.M}, mutable_data_of<T>(p.w_mid),
       {0, p.hidden, 1}, {1, p.M, p.M});
  return p;
}

template <class T>
Tensor transposed(const Tensor& matrix) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  Tensor out = empty({columns, rows}, matrix);
  copy(data_of<T>(matrix), {0, 1, columns}, mutable_data_of<T>(out), {0, rows, 1},
       {1, columns, rows});
  return out;
}

template <class T, class I>
GateArgs<T, I> arguments(
    const Padded& p, const Tensor& src, const Tensor& dst, const Tensor& b_out, T* gate) {
  return {
      p.features, p.hidden, data_of<I>(src), data_of<I>(dst),
      data_of<T>(p.h), data_of<T>(p.at_dst), data_of<T>(p.at_src),
      data_of<T>(p.w_in), data_of<T>(p.w_mid), data_of<T>(p.b_mid),
      data_of<T>(p.w_out), *data_of<T>(b_out), gate};
}

// Row blocks of at most kBlock edges, or of one row: block b is the rows [b], [b + 1] - 1.
std::vector<int64_t> row_blocks(const int64_t* ptr, int64_t N) {
  std::vector<int64_t> blocks{0};
  while (blocks.back() < N) {
    const int64_t row = blocks.back();
    const auto end = std::upper_bound(ptr + row + 1, ptr + N + 1, ptr[row] + kBlock) - ptr - 1;
    blocks.push_back(std::max<int64_t>(end, row + 1));
  }
  return blocks;
}

// First edge of every slot of the edges [first, last): whole rows, about equal.
std::vector<int64_t> slot_edges(const int64_t* ptr, int64_t row, int64_t row_end) {
  const int64_t first = ptr[row], last = ptr[row_end];
  std::vector<int64_t> edges{first};
  for (int64_t s = 1; s < kSlots; ++s) {
    const int64_t target = first + (last - first) * s / kSlots;
    edges.push_back(std::max(edges.back(), *std::lower_bound(ptr + row, ptr + row_end, target)));
  }
  edges.push_back(last);
  return edges;
}

// Where a slot keeps its sums, one after another: dw_in (2F, M), dw_mid (M, M), db_mid (M),
// dw_out (M) and db_out, with padded F and M.
struct Sums {
  int64_t w_in, w_mid, b_mid, w_out, b_out, size;
  Sums(int64_t F, int64_t M)
      : w_in(0), w_mid(2 * F * M), b_mid(w_mid + M * M), w_out(b_mid + M), b_out(w_out + M),
        size(b_out + kPad) {}
};

using Grads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T, class I>
Grads backward(
    const Padded& p, const Tensor& grad, const Tensor& src, const Tensor& dst, const int64_t* rows,
    const Tensor& b_out, bool need_h) {
  const int64_t N = p.h.size(0), F = p.features, M = p.hidden;
  const Tensor w_in_t = transposed<T>(p.w_in), w_mid_t = transposed<T>(p.w_mid);
  const Sums at(F, M);
  const auto blocks = row_blocks(rows, N);
  int64_t largest = 0;
  for (size_t b = 0; b + 1 < blocks.size(); ++b)
    largest = std::max(largest, rows[blocks[b + 1]] - rows[blocks[b]]);

  Tensor dat_dst = zeros({N, M}, p.h), dat_src = zeros({N, M}, p.h);
  Tensor dh = zeros({need_h ? N : 0, F}, p.h), sums = zeros({kSlots, at.size}, p.h);
  Tensor dz_block = empty({largest, M}, p.h), dh_block = empty({need_h ? largest : 0, F}, p.h);
  T* const to_dst = mutable_data_of<T>(dat_dst);
  T* const to_src = mutable_data_of<T>(dat_src);
  T* const to_h = need_h ? mutable_data_of<T>(dh) : nullptr;
  T* const slots = mutable_data_of<T>(sums);
  T* const dz = mutable_data_of<T>(dz_block);
  T* const dh_src = need_h ? mutable_data_of<T>(dh_block) : nullptr;

  const auto fwd = arguments<T, I>(p, src, dst, b_out, nullptr);
  const auto& table = kernels<T, I>();
  const int64_t threads = torch::stable::get_num_threads();
  for (size_t b = 0; b + 1 < blocks.size(); ++b) {
    const int64_t first = rows[blocks[b]], last = rows[blocks[b + 1]];
    if (first == last) continue;
    const auto edges = slot_edges(rows, blocks[b], blocks[b + 1]);
    parallel_for(0, kSlots, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(gate_scratch(F, M));
      for (int64_t s = begin; s < end; ++s) {
        if (edges[s] == edges[s + 1]) continue;
        T* sum = slots + s * at.size;
        const GateGradArgs<T, I> args{
            fwd, data_of<T>(w_in_t), data_of<T>(w_mid_t),
            data_of<T>(grad), first, dz, dh_src, to_h, to_dst, sum + at.w_in,
            sum + at.w_mid, sum + at.b_mid, sum + at.w_out, sum + at.b_out};
        table.gate_grad(args, edges[s], edges[s + 1], scratch.data());
      }
    });
    // Every thread scans the block for the sources it owns: sums run in edge order for each.
    const int64_t grain = std::max<int64_t>(1, (N + threads - 1) / threads);
    parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
      table.scatter_add(fwd.src, first, last, dz, to_src, M, begin, end);
      if (need_h) table.scatter_add(fwd.src, first, last, dh_src, to_h, F, begin, end);
    });
  }
  parallel_for(0, at.size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t s = 1; s < kSlots; ++s)  // in slot order, whatever the threads
      for (int64_t n = begin; n < end; ++n) slots[n] += slots[s * at.size + n];
  });

  Tensor dw_in = empty({p.M, 2 * p.F}, p.h), dw_mid = empty({p.M, p.M}, p.h);
  Tensor db_mid = empty({p.M}, p.h), dw_out = empty({1, p.M}, p.h), db_out = empty({1}, p.h);
  copy(slots + at.w_in, {F * M, M, 1}, mutable_data_of<T>(dw_in), {p.F, 1, 2 * p.F},
       {2, p.F, p.M});
  copy(slots + at.w_mid, {0, M, 1}, mutable_data_of<T>(dw_mid), {0, 1, p.M}, {1, p.M, p.M});
  std::copy_n(slots + at.b_mid, p.M, mutable_data_of<T>(db_mid));
  std::copy_n(slots + at.w_out, p.M, mutable_data_of<T>(dw_out));
  *mutable_data_of<T>(db_out) = slots[at.b_out];
  return {resize_last(dat_dst, p.M), resize_last(dat_src, p.M), resize_last(dh, p.F), dw_in,
          dw_mid, db_mid, dw_out, db_out};
}

}  // namespace

Tensor edge_gate(
    const Tensor& at_dst, const Tensor& at_src, const Tensor& h, const Tensor& src,
    const Tensor& dst, const Tensor&, const Tensor& w_in, const Tensor& w_mid,
    const Tensor& b_mid, const Tensor& w_out, const Tensor& b_out) {
  const int64_t E = src.size(0);
  Tensor gate = empty({E}, h);
  with_types(h, src, "edgewise::edge_gate", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const Padded p = pad<T>(at_dst, at_src, h, w_in, w_mid, b_mid, w_out);
    const auto args = arguments<T, I>(p, src, dst, b_out, mutable_data_of<T>(gate));
    parallel_for(0, E, 4 * kTile, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(gate_scratch(p.features, p.hidden));
      kernels<T, I>().gate(args, begin, end, scratch.data());
    });
  });
  return gate;
}

Grads edge_gate_backward(
    const Tensor& grad, const Tensor& at_dst, const Tensor& at_src, const Tensor& h,
    const Tensor& src, const Tensor& dst, const Tensor& ptr, const Tensor& w_in,
    const Tensor& w_mid, const Tensor& b_mid, const Tensor& w_out, const Tensor& b_out,
    bool need_h) {
  std::optional<Grads> grads;
  with_types(h, src, "edgewise::edge_gate_backward", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const Padded p = pad<T>(at_dst, at_src, h, w_in, w_mid, b_mid, w_out);
    grads = backward<T, I>(p, packed(grad), src, dst, data_of<int64_t>(ptr), b_out,
                           need_h);
  });
  return *grads;
}

}  // namespace edgewise
