// Tensor entry points of the row sums, the sampled products and the softmax over in-edges.
#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace edgewise {

using at::Tensor;
using std::optional;

Tensor gather_sum(
    const Tensor& ptr, const optional<Tensor>& perm, const Tensor& col, const Tensor& weight_in,
    const Tensor& dense_in) {
  const Tensor weight = weight_in.contiguous(), dense = dense_in.contiguous();
  const int64_t rows = ptr.size(0) - 1, width = dense.size(1);
  Tensor out = at::empty({rows, width}, dense.options());
  EDGEWISE_DISPATCH(dense, col, "edgewise::gather_sum", {
    parallel_rows(ptr.const_data_ptr<int64_t>(), rows, [&](int64_t begin, int64_t end) {
      kernels<T, I>().gather_sum(
          ptr.const_data_ptr<int64_t>(), pointer<I>(perm), col.const_data_ptr<I>(),
          weight.const_data_ptr<T>(), dense.const_data_ptr<T>(), out.data_ptr<T>(), width, begin,
          end);
    });
  });
  return out;
}

Tensor gather_dot(
    const Tensor& row, const Tensor& col, const Tensor& a_in, const Tensor& b_in) {
  const Tensor a = a_in.contiguous(), b = b_in.contiguous();
  const int64_t E = row.size(0), width = a.size(1);
  Tensor out = at::empty({E}, a.options());
  EDGEWISE_DISPATCH(a, row, "edgewise::gather_dot", {
    at::parallel_for(0, E, 2048, [&](int64_t begin, int64_t end) {
      kernels<T, I>().gather_dot(
          row.const_data_ptr<I>(), col.const_data_ptr<I>(), a.const_data_ptr<T>(),
          b.const_data_ptr<T>(), out.data_ptr<T>(), width, begin, end);
    });
  });
  return out;
}

Tensor log_softmax(const Tensor& logits_in, const Tensor& ptr) {
  const Tensor logits = logits_in.contiguous();
  const int64_t heads = logits.dim() == 2 ? logits.size(1) : 1;
  Tensor out = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "edgewise::log_softmax", [&] {
    using T = scalar_t;
    parallel_rows(ptr.const_data_ptr<int64_t>(), ptr.size(0) - 1, [&](int64_t b, int64_t e) {
      kernels<T, int64_t>().log_softmax(
          ptr.const_data_ptr<int64_t>(), logits.const_data_ptr<T>(), out.data_ptr<T>(), heads, b,
          e);
    });
  });
  return out;
}

Tensor log_softmax_backward(const Tensor& grad_in, const Tensor& out, const Tensor& ptr) {
  const Tensor grad = grad_in.contiguous();
  const int64_t heads = out.dim() == 2 ? out.size(1) : 1;
  Tensor dlogits = at::empty_like(out);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "edgewise::log_softmax_backward", [&] {
    using T = scalar_t;
    parallel_rows(ptr.const_data_ptr<int64_t>(), ptr.size(0) - 1, [&](int64_t b, int64_t e) {
      kernels<T, int64_t>().log_softmax_grad(
          ptr.const_data_ptr<int64_t>(), out.const_data_ptr<T>(), grad.const_data_ptr<T>(),
          dlogits.data_ptr<T>(), heads, b, e);
    });
  });
  return dlogits;
}

}  // namespace edgewise
