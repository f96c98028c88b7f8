// Tensor entry points of the row sums, the sampled products and the softmax over in-edges.
#include "kernels.h"
#include "ops.h"
#include "parallel.h"
#include "tensors.h"

namespace edgewise {

using std::optional;

Tensor gather_sum(
    const Tensor& ptr_in, const optional<Tensor>& perm_in, const Tensor& col_in,
    const Tensor& weight_in, const Tensor& dense_in) {
  const Tensor weight = packed(weight_in), dense = packed(dense_in);
  const int64_t rows = ptr_in.size(0) - 1, width = dense.size(1);
  Tensor out = empty({rows, width}, dense);
  with_types(dense, col_in, "edgewise::gather_sum", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const auto *ptr = data_of<int64_t>(ptr_in);
    const auto *perm = data_of<I>(perm_in), *col = data_of<I>(col_in);
    const auto *w = data_of<T>(weight), *x = data_of<T>(dense);
    T* sums = mutable_data_of<T>(out);
    parallel_rows(ptr, rows, [&](int64_t begin, int64_t end) {
      kernels<T, I>().gather_sum(ptr, perm, col, w, x, sums, width, begin, end);
    });
  });
  return out;
}

Tensor spmm(
    const Tensor& weight, const Tensor& src, const Tensor&, const Tensor& ptr, const Tensor&,
    const Tensor&, const Tensor& dense) {
  return gather_sum(ptr, std::nullopt, src, weight, dense);
}

Tensor gather_dot(
    const Tensor& row_in, const Tensor& col_in, const Tensor& a_in, const Tensor& b_in) {
  const Tensor a = packed(a_in), b = packed(b_in);
  const int64_t E = row_in.size(0), width = a.size(1);
  Tensor out = empty({E}, a);
  with_types(a, row_in, "edgewise::gather_dot", [&](auto value, auto index) {
    using T = decltype(value);
    using I = decltype(index);
    const auto *row = data_of<I>(row_in), *col = data_of<I>(col_in);
    const auto *x = data_of<T>(a), *y = data_of<T>(b);
    T* dots = mutable_data_of<T>(out);
    parallel_for(0, E, 2048, [&](int64_t begin, int64_t end) {
      kernels<T, I>().gather_dot(row, col, x, y, dots, width, begin, end);
    });
  });
  return out;
}

Tensor log_softmax(const Tensor& logits_in, const Tensor& ptr_in) {
  const Tensor logits = packed(logits_in);
  const int64_t heads = logits.dim() == 2 ? logits.size(1) : 1;
  Tensor out = new_like(logits);
  with_float(logits, "edgewise::log_softmax", [&](auto value) {
    using T = decltype(value);
    const auto* ptr = data_of<int64_t>(ptr_in);
    const T* x = data_of<T>(logits);
    T* y = mutable_data_of<T>(out);
    parallel_rows(ptr, ptr_in.size(0) - 1, [&](int64_t begin, int64_t end) {
      kernels<T, int64_t>().log_softmax(ptr, x, y, heads, begin, end);
    });
  });
  return out;
}

Tensor log_softmax_backward(const Tensor& grad_in, const Tensor& out_in, const Tensor& ptr_in) {
  const Tensor grad = packed(grad_in), out = packed(out_in);
  const int64_t heads = out.dim() == 2 ? out.size(1) : 1;
  Tensor dlogits = new_like(out);
  with_float(out, "edgewise::log_softmax_backward", [&](auto value) {
    using T = decltype(value);
    const auto* ptr = data_of<int64_t>(ptr_in);
    const T *y = data_of<T>(out), *dy = data_of<T>(grad);
    T* dx = mutable_data_of<T>(dlogits);
    parallel_rows(ptr, ptr_in.size(0) - 1, [&](int64_t begin, int64_t end) {
      kernels<T, int64_t>().log_softmax_grad(ptr, y, dy, dx, heads, begin, end);
    });
  });
  return dlogits;
}

}  // namespace edgewise
