// Tensor entry points of the perceptron over rows.
#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "parallel.h"
#include "tensors.h"

namespace edgewise {

namespace {

constexpr int64_t kRows = 32 * kTile;  // whose gradients are summed before the parts are

template <class T>
PerceptronArgs<T> arguments(
    const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, T* out) {
  return {w1.size(1), w1.size(0), w2.size(0), data_of<T>(x), data_of<T>(w1),
          data_of<T>(b1), data_of<T>(w2), out};
}

}  // namespace

Tensor perceptron(
    const Tensor& x_in, const Tensor& w1_in, const Tensor& b1_in, const Tensor& w2_in) {
  const Tensor x = packed(x_in), w1 = packed(w1_in), b1 = packed(b1_in), w2 = packed(w2_in);
  const int64_t rows = x.size(0);
  Tensor out = empty({rows, w2.size(0)}, x);
  with_float(x, "edgewise::perceptron", [&](auto value) {
    using T = decltype(value);
    const auto args = arguments<T>(x, w1, b1, w2, mutable_data_of<T>(out));
    parallel_for(0, rows, 4 * kTile, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(perceptron_scratch(args.features, args.hidden, args.outputs));
      kernels<T, int64_t>().perceptron(args, begin, end, scratch.data());
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> perceptron_backward(
    const Tensor& grad_in, const Tensor& x_in, const Tensor& w1_in, const Tensor& b1_in,
    const Tensor& w2_in, bool need_x) {
  const Tensor x = packed(x_in), w1 = packed(w1_in), b1 = packed(b1_in), w2 = packed(w2_in);
  const Tensor grad = packed(grad_in);
  const int64_t rows = x.size(0), M = w1.size(0), F = w1.size(1), H = w2.size(0);
  const int64_t parts = (rows + kRows - 1) / kRows, size = M * F + M + H * M;
  Tensor dx = empty({need_x ? rows : 0, F}, x), dw1 = new_like(w1), db1 = new_like(b1);
  Tensor dw2 = new_like(w2), sums = zeros({parts, size}, x);
  with_float(x, "edgewise::perceptron_backward", [&](auto value) {
    using T = decltype(value);
    const auto fwd = arguments<T>(x, w1, b1, w2, nullptr);
    T* const to_x = need_x ? mutable_data_of<T>(dx) : nullptr;
    T* const slots = mutable_data_of<T>(sums);
    parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      std::vector<T> scratch(perceptron_scratch(F, M, H));
      for (int64_t part = first; part < last; ++part) {
        T* sum = slots + part * size;
        const PerceptronGradArgs<T> args{
            fwd, data_of<T>(grad), to_x, sum, sum + M * F, sum + M * F + M};
        kernels<T, int64_t>().perceptron_grad(
            args, part * kRows, std::min(rows, (part + 1) * kRows), scratch.data());
      }
    });
    std::vector<double> total(size);  // in the order of the parts, whatever the threads
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t n = 0; n < size; ++n) total[n] += double(slots[part * size + n]);
    const auto at = total.begin();
    std::copy(at, at + M * F, mutable_data_of<T>(dw1));
    std::copy(at + M * F, at + M * F + M, mutable_data_of<T>(db1));
    std::copy(at + M * F + M, total.end(), mutable_data_of<T>(dw2));
  });
  return {dx, dw1, db1, dw2};
}

}  // namespace edgewise
