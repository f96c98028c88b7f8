// Tensor entry points of attention without states.
#include <algorithm>
#include <tuple>
#include <vector>

#include "displacement.h"
#include "kernels.h"
#include "ops.h"
#include "parallel.h"
#include "tensors.h"

namespace edgewise {

using std::optional;

std::tuple<Tensor, Tensor, Tensor> points(
    const Tensor& x_in, const Tensor& src, const Tensor&, const Tensor& ptr, const Tensor&,
    const Tensor&, const Tensor& w_in, const optional<Tensor>& gate_in, double beta,
    const optional<Tensor>& bias_in, const optional<Tensor>& gamma_in) {
  require_sizes(w_in.size(0), x_in.size(1));
  const int64_t N = x_in.size(0), C = x_in.size(1), H = w_in.size(0);
  const Tensor x = packed(x_in), w = packed(w_in);
  const auto gate = packed(gate_in), bias = packed(bias_in), gamma = packed(gamma_in);
  Tensor dx = new_like(x), lse = empty({N, H}, x), moment = empty({N, H, C}, x);
  with_types(x, src, "edgewise::points", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const PointArgs<T, I> args{
        H, C, static_cast<T>(beta), data_of<I>(src), data_of<int64_t>(ptr), data_of<T>(x),
        data_of<T>(w), data_of<T>(gate), data_of<T>(bias), data_of<T>(gamma),
        mutable_data_of<T>(dx), mutable_data_of<T>(lse), mutable_data_of<T>(moment)};
    parallel_rows(args.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().points(args, begin, end);
    });
  });
  return {dx, lse, moment};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> points_backward(
    const Tensor& grad_in, const Tensor& x_in, const Tensor& src, const Tensor&,
    const Tensor& ptr, const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_in,
    const optional<Tensor>& gate_in, double beta, const optional<Tensor>& bias_in,
    const optional<Tensor>& gamma_in, const Tensor& lse, const Tensor& moment) {
  const int64_t N = x_in.size(0), C = x_in.size(1), H = w_in.size(0), E = src.size(0);
  const Tensor x = packed(x_in), w = packed(w_in), grad = packed(grad_in);
  const auto gate = packed(gate_in), bias = packed(bias_in), gamma = packed(gamma_in);
  Tensor dx = new_like(x), dw = new_like(w), pull = empty({E, C}, x);
  Tensor dgate = empty({gate ? E : 0}, x), dbias = empty({bias ? E : 0, H}, x);
  Tensor dgamma = empty({gamma ? H : 0}, x), rows = empty({gamma ? N : 0, H}, x);
  with_types(x, src, "edgewise::points_backward", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const PointArgs<T, I> fwd{
        H, C, static_cast<T>(beta), data_of<I>(src), data_of<int64_t>(ptr), data_of<T>(x),
        data_of<T>(w), data_of<T>(gate), data_of<T>(bias), data_of<T>(gamma), nullptr,
        const_cast<T*>(data_of<T>(lse)), const_cast<T*>(data_of<T>(moment))};
    const PointGradArgs<T, I> args{
        fwd, data_of<T>(grad), mutable_data_of<T>(pull),
        gate ? mutable_data_of<T>(dgate) : nullptr, bias ? mutable_data_of<T>(dbias) : nullptr,
        gamma ? mutable_data_of<T>(rows) : nullptr, mutable_data_of<T>(dx)};
    parallel_rows(fwd.ptr, N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().points_grad(args, begin, end);
    });
    parallel_rows(data_of<int64_t>(rev_ptr), N, [&](int64_t begin, int64_t end) {
      kernels<T, I>().add_edges(
          data_of<int64_t>(rev_ptr), data_of<I>(rev_edge), args.pull, args.dx, C, begin, end);
    });
    grad_of_w_x(N, H, C, args.grad_dx, fwd.moment, mutable_data_of<T>(dw));
    if (!gamma) return;
    std::vector<double> sum(H);
    for (int64_t n = 0; n < N * H; ++n) sum[n % H] += double(args.dgamma[n]);
    std::copy(sum.begin(), sum.end(), mutable_data_of<T>(dgamma));
  });
  return {dx, dw, dgate, dbias, dgamma};
}

}  // namespace edgewise
