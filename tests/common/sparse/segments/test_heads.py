"""Products at edges and weighted sums for several heads, on every backend."""

from __future__ import annotations

import pytest
import torch
from sparse_problems import (
    BACKENDS,
    SIZES,
    Op,
    Problem,
    needs_extension,
    same_bits_for_every_thread_count,
    values_and_gradients,
)
from torch import Tensor

from common.sparse import edge_dot, use_backend, weighted_sum


def operations(problem: Problem) -> dict[str, tuple[Op, list[Tensor]]]:
    edges, width = problem.edges, problem.q.shape[2]
    values = problem.draw(edges.num_edges, width)
    return {
        "dot": (lambda: [edge_dot(problem.q, problem.k, edges)], [problem.q, problem.k]),
        "dot at edges": (lambda: [edge_dot(problem.q, values, edges)], [problem.q, values]),
        "sum": (lambda: [weighted_sum(problem.bias, edges, problem.v)], [problem.bias, problem.v]),
        "sum at edges": (
            lambda: [weighted_sum(problem.bias, edges, values)],
            [problem.bias, values],
        ),
    }


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_plain_form_is_the_dense_one(size: tuple[int, ...]) -> None:
    """Against einsum over incidence matrices."""
    problem = Problem(size)
    edges, q, k, v, weight = problem.edges, problem.q, problem.k, problem.v, problem.bias
    values = problem.draw(edges.num_edges, q.shape[2])
    one_hot = torch.nn.functional.one_hot
    to = one_hot(edges.dst, edges.num_nodes).double()
    at = one_hot(edges.src, edges.num_nodes).double()
    with use_backend("reference"):
        got = [
            edge_dot(q, k, edges),
            edge_dot(q, values, edges),
            weighted_sum(weight, edges, v),
            weighted_sum(weight, edges, values),
        ]
    want = [
        torch.einsum("ei,ihd,ej,jhd->eh", to, q, at, k),
        torch.einsum("ei,ihd,ed->eh", to, q, values),
        torch.einsum("ei,eh,ej,jhd->ihd", to, weight, at, v),
        torch.einsum("ei,eh,ed->ihd", to, weight, values),
    ]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("index", ["int64", "int32"])
def test_matches_the_plain_form(backend: str, size: tuple[int, ...], index: str) -> None:
    problem = Problem(size)
    if index == "int32":
        problem.edges = problem.edges.int32()
    for name, (op, inputs) in operations(problem).items():
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        with use_backend(backend):  # type: ignore[arg-type]
            computed = values_and_gradients(op, inputs)
        for want, got in zip(expected, computed, strict=True):
            assert got.shape == want.shape, name
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_match_finite_differences(backend: str) -> None:
    with use_backend(backend):  # type: ignore[arg-type]
        for op, inputs in operations(Problem((5, 9, 2, 3, 2, 3, 4))).values():
            assert torch.autograd.gradcheck(lambda *_, op=op: tuple(op()), inputs)


@needs_extension
def test_same_bits_for_every_run_and_thread_count() -> None:
    problem = Problem((301, 40000, 4, 32, 2, 32, 16), torch.float32)
    same_bits_for_every_thread_count(operations(problem))


def test_bad_shapes() -> None:
    problem = Problem((5, 9, 2, 3, 2, 3, 4))
    edges = problem.edges
    with pytest.raises(ValueError, match=r"a must have shape \(N, H, D\)"):
        edge_dot(problem.x, problem.k, edges)
    with pytest.raises(ValueError, match=r"b must have shape \(E, D\) = \(9, 3\), got \(9, 2\)"):
        edge_dot(problem.q, problem.bias, edges)
    with pytest.raises(ValueError, match=r"weight must have shape \(E, H\)"):
        weighted_sum(problem.bias[1:], edges, problem.v)
    with pytest.raises(ValueError, match=r"rows must have shape \(N, H, D\) = \(5, 2, 3\)"):
        weighted_sum(problem.bias, edges, problem.v[:, :1])
