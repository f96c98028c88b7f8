// Tensor entry points, with the arguments of their schemas in library.cpp; shapes as in kernels.h,
// without padding.  Callers have checked them.  What only the gradients read is an argument of the
// forward operators too, so that autograd sees it.
#pragma once

#include <optional>
#include <tuple>

#include "tensors.h"

namespace edgewise {

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& x, const Tensor& src,
    const Tensor& dst, const Tensor& ptr, const Tensor& rev_ptr, const Tensor& rev_edge,
    const Tensor& w_x, const std::optional<Tensor>& gate, double beta,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& rows,
    const std::optional<Tensor>& first);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out, const Tensor& grad_dx, const Tensor& q, const Tensor& k,
    const Tensor& v, const Tensor& x, const Tensor& src, const Tensor& dst, const Tensor& ptr,
    const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_x,
    const std::optional<Tensor>& gate, double beta, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& rows, const std::optional<Tensor>& first, const Tensor& out,
    const Tensor& lse, const Tensor& moment);

std::tuple<Tensor, Tensor, Tensor> points(
    const Tensor& x, const Tensor& src, const Tensor& dst, const Tensor& ptr,
    const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_x,
    const std::optional<Tensor>& gate, double beta, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& gamma);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> points_backward(
    const Tensor& grad, const Tensor& x, const Tensor& src, const Tensor& dst, const Tensor& ptr,
    const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& w_x,
    const std::optional<Tensor>& gate, double beta, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& gamma, const Tensor& lse, const Tensor& moment);

Tensor perceptron(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2);
std::tuple<Tensor, Tensor, Tensor, Tensor> perceptron_backward(
    const Tensor& grad, const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2,
    bool need_x);

Tensor edge_gate(
    const Tensor& at_dst, const Tensor& at_src, const Tensor& h, const Tensor& src,
    const Tensor& dst, const Tensor& ptr, const Tensor& w_in, const Tensor& w_mid,
    const Tensor& b_mid, const Tensor& w_out, const Tensor& b_out);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> edge_gate_backward(
    const Tensor& grad, const Tensor& at_dst, const Tensor& at_src, const Tensor& h,
    const Tensor& src, const Tensor& dst, const Tensor& ptr, const Tensor& w_in,
    const Tensor& w_mid, const Tensor& b_mid, const Tensor& w_out, const Tensor& b_out,
    bool need_h);

Tensor gather_sum(
    const Tensor& ptr, const std::optional<Tensor>& perm, const Tensor& col, const Tensor& weight,
    const Tensor& dense);
Tensor spmm(
    const Tensor& weight, const Tensor& src, const Tensor& dst, const Tensor& ptr,
    const Tensor& rev_ptr, const Tensor& rev_edge, const Tensor& dense);
Tensor gather_dot(const Tensor& row, const Tensor& col, const Tensor& a, const Tensor& b);
Tensor log_softmax(const Tensor& logits, const Tensor& ptr);
Tensor log_softmax_backward(const Tensor& grad, const Tensor& out, const Tensor& ptr);

}  // namespace edgewise
