// Registration under torch.ops.edgewise; gradients and shapes are registered from Python.
#include <torch/library.h>

#include "kernels.h"
#include "ops.h"

TORCH_LIBRARY(edgewise, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor x, Tensor src, Tensor dst, Tensor ptr, "
        "Tensor rev_ptr, Tensor rev_edge, Tensor w_x, Tensor? gate, float beta, Tensor? bias) "
        "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("attention_backward(Tensor grad_out, Tensor grad_dx, Tensor q, Tensor k, Tensor v, "
        "Tensor x, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, Tensor rev_edge, "
        "Tensor w_x, Tensor? gate, float beta, Tensor? bias, Tensor out, Tensor lse, "
        "Tensor moment) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("edge_gate(Tensor at_dst, Tensor at_src, Tensor h, Tensor src, Tensor dst, Tensor ptr, "
        "Tensor w_in, Tensor w_mid, Tensor b_mid, Tensor w_out, Tensor b_out) -> Tensor");
  m.def("edge_gate_backward(Tensor grad, Tensor at_dst, Tensor at_src, Tensor h, Tensor src, "
        "Tensor dst, Tensor ptr, Tensor w_in, Tensor w_mid, Tensor b_mid, Tensor w_out, "
        "Tensor b_out, bool need_h) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
        "Tensor)");
  m.def("gather_sum(Tensor ptr, Tensor? perm, Tensor col, Tensor weight, Tensor dense) -> Tensor");
  m.def("gather_dot(Tensor row, Tensor col, Tensor a, Tensor b) -> Tensor");
  m.def("spmm(Tensor weight, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, "
        "Tensor rev_edge, Tensor dense) -> Tensor");
  m.def("log_softmax(Tensor logits, Tensor ptr) -> Tensor");
  m.def("log_softmax_backward(Tensor grad, Tensor out, Tensor ptr) -> Tensor");
  m.def("cpu_capability() -> str", [] { return std::string(edgewise::cpu_capability()); });
  m.def("threads_used() -> int", [] { return edgewise::threads_used(); });
}

TORCH_LIBRARY_IMPL(edgewise, CPU, m) {
  using edgewise::Tensor;
  using OptionalTensor = std::optional<Tensor>;
  // The arguments that only the gradients read are part of the schema, so that autograd sees them.
  m.impl("attention", [](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& x,
                         const Tensor& src, const Tensor&, const Tensor& ptr, const Tensor&,
                         const Tensor&, const Tensor& w_x, const OptionalTensor& gate, double beta,
                         const OptionalTensor& bias) {
    return edgewise::attention(q, k, v, x, src, ptr, w_x, gate, beta, bias);
  });
  m.impl("attention_backward", &edgewise::attention_backward);
  m.impl("edge_gate", [](const Tensor& at_dst, const Tensor& at_src, const Tensor& h,
                         const Tensor& src, const Tensor& dst, const Tensor&, const Tensor& w_in,
                         const Tensor& w_mid, const Tensor& b_mid, const Tensor& w_out,
                         const Tensor& b_out) {
    return edgewise::edge_gate(at_dst, at_src, h, src, dst, w_in, w_mid, b_mid, w_out, b_out);
  });
  m.impl("edge_gate_backward", &edgewise::edge_gate_backward);
  m.impl("gather_sum", &edgewise::gather_sum);
  m.impl("gather_dot", &edgewise::gather_dot);
  m.impl("spmm", [](const Tensor& weight, const Tensor& src, const Tensor&, const Tensor& ptr,
                    const Tensor&, const Tensor&, const Tensor& dense) {
    return edgewise::gather_sum(ptr, std::nullopt, src, weight, dense);
  });
  m.impl("log_softmax", &edgewise::log_softmax);
  m.impl("log_softmax_backward", &edgewise::log_softmax_backward);
}
