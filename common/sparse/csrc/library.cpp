// Registration under torch.ops.edgewise; gradients and shapes are registered from Python.
#include <torch/csrc/stable/library.h>

#include <string>

#include "kernels.h"
#include "ops.h"

namespace {
std::string cpu_capability() { return edgewise::cpu_capability(); }
}  // namespace

STABLE_TORCH_LIBRARY(edgewise, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor x, Tensor src, Tensor dst, Tensor ptr, "
        "Tensor rev_ptr, Tensor rev_edge, Tensor w_x, Tensor? gate, float beta, Tensor? bias, "
        "Tensor? rows, Tensor? first) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("attention_backward(Tensor grad_out, Tensor grad_dx, Tensor q, Tensor k, Tensor v, "
        "Tensor x, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, Tensor rev_edge, "
        "Tensor w_x, Tensor? gate, float beta, Tensor? bias, Tensor? rows, Tensor? first, "
        "Tensor out, Tensor lse, Tensor moment) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("points(Tensor x, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, Tensor rev_edge, "
        "Tensor w_x, Tensor? gate, float beta, Tensor? bias, Tensor? gamma) "
        "-> (Tensor, Tensor, Tensor)");
  m.def("points_backward(Tensor grad, Tensor x, Tensor src, Tensor dst, Tensor ptr, "
        "Tensor rev_ptr, Tensor rev_edge, Tensor w_x, Tensor? gate, float beta, Tensor? bias, "
        "Tensor? gamma, Tensor lse, Tensor moment) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("perceptron(Tensor x, Tensor w1, Tensor b1, Tensor w2) -> Tensor");
  m.def("perceptron_backward(Tensor grad, Tensor x, Tensor w1, Tensor b1, Tensor w2, "
        "bool need_x) -> (Tensor, Tensor, Tensor, Tensor)");
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
  m.def("cpu_capability() -> str");
  m.def("threads_used() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(edgewise, CPU, m) {
  m.impl("attention", TORCH_BOX(&edgewise::attention));
  m.impl("attention_backward", TORCH_BOX(&edgewise::attention_backward));
  m.impl("points", TORCH_BOX(&edgewise::points));
  m.impl("points_backward", TORCH_BOX(&edgewise::points_backward));
  m.impl("perceptron", TORCH_BOX(&edgewise::perceptron));
  m.impl("perceptron_backward", TORCH_BOX(&edgewise::perceptron_backward));
  m.impl("edge_gate", TORCH_BOX(&edgewise::edge_gate));
  m.impl("edge_gate_backward", TORCH_BOX(&edgewise::edge_gate_backward));
  m.impl("gather_sum", TORCH_BOX(&edgewise::gather_sum));
  m.impl("gather_dot", TORCH_BOX(&edgewise::gather_dot));
  m.impl("spmm", TORCH_BOX(&edgewise::spmm));
  m.impl("log_softmax", TORCH_BOX(&edgewise::log_softmax));
  m.impl("log_softmax_backward", TORCH_BOX(&edgewise::log_softmax_backward));
}

// Without a tensor among the arguments there is no device to choose by.
STABLE_TORCH_LIBRARY_IMPL(edgewise, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
  m.impl("threads_used", TORCH_BOX(&edgewise::threads_used));
}
