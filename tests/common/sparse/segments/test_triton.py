"""Triton kernels of spmm and of the softmax over rows against the plain forms."""

from __future__ import annotations

import pytest
import torch
from triton_problems import (
    SIZES,
    Problem,
    assert_close,
    compiled_or_interpreted,
    gradients,
    needs_triton,
)

from common.sparse import edge_dot, edge_log_softmax, spmm, use_backend, weighted_sum
from common.sparse.segments import triton

pytestmark = needs_triton


@compiled_or_interpreted
@pytest.mark.gpu
def test_other_operations_match_the_plain_forms() -> None:
    problem = Problem(SIZES[3])
    weight = problem.bias[:, 0]
    inputs = [problem.bias, problem.h]
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):  # type: ignore[arg-type]
            outputs = [
                spmm(weight, problem.edges, problem.h),
                edge_log_softmax(problem.bias, problem.edges),
                edge_log_softmax(problem.gate, problem.edges)[problem.gate.isfinite()],
            ]
            results.append(gradients(outputs, inputs))
    assert_close(results[1], results[0], 1e-10)


@compiled_or_interpreted
@pytest.mark.gpu
def test_products_and_sums_of_heads_match_the_plain_forms() -> None:
    problem = Problem(SIZES[3])
    edges = problem.edges
    values = problem.draw(torch.float64, edges.num_edges, problem.q.shape[2])
    inputs = [problem.q, problem.k, problem.bias, values]
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):  # type: ignore[arg-type]
            outputs = [
                edge_dot(problem.q, problem.k, edges),
                edge_dot(problem.q, values, edges),
                weighted_sum(problem.bias, edges, problem.k),
                weighted_sum(problem.bias, edges, values),
            ]
            results.append(gradients(outputs, inputs))
    assert_close(results[1], results[0], 1e-10)


@compiled_or_interpreted
@pytest.mark.gpu
def test_same_bits_again() -> None:
    problem = Problem(SIZES[3], torch.float32)
    runs = []
    for _ in range(2):
        with use_backend("triton"):
            outputs = [
                edge_log_softmax(problem.bias, problem.edges),
                spmm(problem.bias[:, 0], problem.edges, problem.h),
            ]
            runs.append(gradients(outputs, [problem.bias, problem.h]))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@compiled_or_interpreted
@pytest.mark.gpu
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    problem = Problem((5, 6, 2, 4, 2, 3, 5), torch.float32)
    edges = problem.edges
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    gate = problem.gate.detach().nan_to_num(neginf=-1.0).requires_grad_()
    torch.library.opcheck(triton.product, (gate, *graph, problem.h))
    torch.library.opcheck(triton.log_softmax, (problem.bias, edges.ptr))
