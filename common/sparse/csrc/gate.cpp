// Tensor entry points of the edge gate.  The node parts of the first layer come in as tensors, so
// the two products per node and their gradients are ordinary matrix products outside.
#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace edgewise {

using at::Tensor;

namespace {

constexpr int64_t kSlots = 32;  // fixed, so that sums over edges do not depend on the threads
constexpr int64_t kBlock = 32768;  // edges whose source gradients wait for their scatter

struct Padded {
  Tensor h, at_dst, at_src, w_in, w_mid, b_mid, w_out;
  int64_t features, hidden;
};

// (M, 2F) -> (2 Fp, Mp) with the two halves padded apart; the other arrays to Mp.
Padded pad(
    const Tensor& at_dst, const Tensor& at_src, const Tensor& h, const Tensor& w_in,
    const Tensor& w_mid, const Tensor& b_mid, const Tensor& w_out) {
  Padded p;
  const int64_t M = at_dst.size(1), F = h.size(1);
  p.h = pad_last(h, kPad);
  p.at_dst = pad_last(at_dst, kPad);
  p.at_src = pad_last(at_src, kPad);
  p.features = p.h.size(1);
  p.hidden = p.at_dst.size(1);
  p.w_in = at::zeros({2, p.features, p.hidden}, h.options());
  p.w_in.slice(1, 0, F).slice(2, 0, M).copy_(w_in.reshape({M, 2, F}).permute({1, 2, 0}));
  p.w_mid = at::zeros({p.hidden, p.hidden}, h.options());
  p.w_mid.slice(0, 0, M).slice(1, 0, M).copy_(w_mid.t());
  p.b_mid = pad_last(b_mid, kPad);
  p.w_out = pad_last(w_out.reshape({M}), kPad);
  return p;
}

template <class T, class I>
GateArgs<T, I> arguments(
    const Padded& p, const Tensor& src, const Tensor& dst, const Tensor& b_out, Tensor* gate) {
  return {
      p.features, p.hidden, src.const_data_ptr<I>(), dst.const_data_ptr<I>(),
      p.h.const_data_ptr<T>(), p.at_dst.const_data_ptr<T>(), p.at_src.const_data_ptr<T>(),
      p.w_in.const_data_ptr<T>(), p.w_mid.const_data_ptr<T>(), p.b_mid.const_data_ptr<T>(),
      p.w_out.const_data_ptr<T>(), b_out.item<T>(), gate ? gate->data_ptr<T>() : nullptr};
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

}  // namespace

Tensor edge_gate(
    const Tensor& at_dst, const Tensor& at_src, const Tensor& h, const Tensor& src,
    const Tensor& dst, const Tensor& w_in, const Tensor& w_mid, const Tensor& b_mid,
    const Tensor& w_out, const Tensor& b_out) {
  const Padded p = pad(at_dst, at_src, h, w_in, w_mid, b_mid, w_out);
  const int64_t E = src.size(0);
  Tensor gate = at::empty({E}, h.options());
  EDGEWISE_DISPATCH(h, src, "edgewise::edge_gate", {
    const auto args = arguments<T, I>(p, src, dst, b_out, &gate);
    at::parallel_for(0, E, 4 * kTile, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(gate_scratch(p.features, p.hidden));
      kernels<T, I>().gate(args, begin, end, scratch.data());
    });
  });
  return gate;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> edge_gate_backward(
    const Tensor& grad_in, const Tensor& at_dst, const Tensor& at_src, const Tensor& h,
    const Tensor& src, const Tensor& dst, const Tensor& ptr, const Tensor& w_in,
    const Tensor& w_mid, const Tensor& b_mid, const Tensor& w_out, const Tensor& b_out,
    bool need_h) {
  const Padded p = pad(at_dst, at_src, h, w_in, w_mid, b_mid, w_out);
  const int64_t N = h.size(0), F = p.features, M = p.hidden;
  const Tensor grad = grad_in.contiguous();
  const Tensor w_in_t = p.w_in.reshape({2 * F, M}).t().contiguous();
  const Tensor w_mid_t = p.w_mid.t().contiguous();
  Tensor dat_dst = at::zeros({N, M}, h.options()), dat_src = at::zeros({N, M}, h.options());
  Tensor dh = at::zeros({need_h ? N : 0, F}, h.options());
  // Per slot, one after another: dw_in (2F, M), dw_mid (M, M), db_mid, dw_out (M), db_out.
  const int64_t per_slot = 2 * F * M + M * M + 2 * M + kPad;
  Tensor sums = at::zeros({kSlots, per_slot}, h.options());
  const int64_t* rows = ptr.const_data_ptr<int64_t>();

  std::vector<int64_t> blocks{0};  // rows; blocks hold whole rows
  int64_t largest = 0;
  while (blocks.back() < N) {
    const int64_t row = blocks.back();
    const auto end = std::upper_bound(rows + row + 1, rows + N + 1, rows[row] + kBlock) - rows - 1;
    blocks.push_back(std::max<int64_t>(end, row + 1));
    largest = std::max(largest, rows[blocks.back()] - rows[row]);
  }
  Tensor dz = at::empty({largest, M}, h.options());
  Tensor dh_src = at::empty({need_h ? largest : 0, F}, h.options());

  EDGEWISE_DISPATCH(h, src, "edgewise::edge_gate_backward", {
    const auto fwd = arguments<T, I>(p, src, dst, b_out, nullptr);
    const auto& table = kernels<T, I>();
    for (size_t b = 0; b + 1 < blocks.size(); ++b) {
      const int64_t first = rows[blocks[b]], last = rows[blocks[b + 1]];
      if (first == last) continue;
      const auto edges = slot_edges(rows, blocks[b], blocks[b + 1]);
      at::parallel_for(0, kSlots, 1, [&](int64_t begin, int64_t end) {
        std::vector<T> scratch(gate_scratch(F, M));
        for (int64_t s = begin; s < end; ++s) {
          if (edges[s] == edges[s + 1]) continue;
          T* sum = sums.data_ptr<T>() + s * per_slot;
          const GateGradArgs<T, I> args{
              fwd, w_in_t.const_data_ptr<T>(), w_mid_t.const_data_ptr<T>(),
              grad.const_data_ptr<T>(), first, dz.data_ptr<T>(),
              need_h ? dh_src.data_ptr<T>() : nullptr, need_h ? dh.data_ptr<T>() : nullptr,
              dat_dst.data_ptr<T>(), sum, sum + 2 * F * M, sum + 2 * F * M + M * M,
              sum + 2 * F * M + M * M + M, sum + 2 * F * M + M * M + 2 * M};
          table.gate_grad(args, edges[s], edges[s + 1], scratch.data());
        }
      });
      // Every thread scans the block for the sources it owns: sums run in edge order for each.
      const int64_t grain = std::max<int64_t>(1, (N + at::get_num_threads() - 1) /
                                                     at::get_num_threads());
      at::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
        table.scatter_add(fwd.src, first, last, dz.data_ptr<T>(), dat_src.data_ptr<T>(), M,
                          begin, end);
        if (need_h)
          table.scatter_add(fwd.src, first, last, dh_src.data_ptr<T>(), dh.data_ptr<T>(), F,
                            begin, end);
      });
    }
  });
  Tensor total = sums.select(0, 0).clone();  // in slot order, whatever the threads
  for (int64_t s = 1; s < kSlots; ++s) total.add_(sums.select(0, s));
  const int64_t m = at_dst.size(1), f = h.size(1);
  int64_t at = 0;
  auto take = [&](int64_t count) {
    at += count;
    return total.slice(0, at - count, at);
  };
  const Tensor dw_in = take(2 * F * M).view({2, F, M}).slice(1, 0, f).slice(2, 0, m)
                           .permute({2, 0, 1}).reshape({m, 2 * f});
  const Tensor dw_mid = take(M * M).view({M, M}).slice(0, 0, m).slice(1, 0, m).t().contiguous();
  const Tensor db_mid = take(M).slice(0, 0, m).clone();
  const Tensor dw_out = take(M).slice(0, 0, m).clone().view({1, m});
  const Tensor db_out = take(1).clone();
  auto trim = [](const Tensor& t, int64_t width) {
    return t.size(1) == width ? t : t.slice(1, 0, width).contiguous();
  };
  return {trim(dat_dst, m), trim(dat_src, m), trim(dh, f), dw_in, dw_mid, db_mid, dw_out, db_out};
}

}  // namespace edgewise
