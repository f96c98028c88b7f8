"""Triton kernels of neighbour attention against the plain form."""

from __future__ import annotations

import pytest
import torch
from triton_problems import (
    DEVICE,
    SIZES,
    Problem,
    assert_close,
    attention,
    compiled_or_interpreted,
    exact,
    gradients,
    needs_triton,
)

from common.sparse import use_backend
from common.sparse.attention import triton, triton_launch
from common.sparse.attention.inputs import Operands
from common.sparse.attention.triton_launch import Tile

pytestmark = needs_triton


@compiled_or_interpreted
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "flags"),
    [*((size, "gb") for size in SIZES), (SIZES[2], ""), (SIZES[3], "g")],
    ids=str,
)
def test_attention_matches_the_plain_form(size: tuple[int, ...], flags: str) -> None:
    """float64 to 1e-10, values and all gradients."""
    problem = Problem(size)
    with use_backend("triton"):
        got = gradients(
            attention(problem.attention_inputs, problem.edges, flags), problem.attention_inputs
        )
    assert_close(got, exact(problem.attention_inputs, problem.edges, flags), 1e-10)


@compiled_or_interpreted
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 5e-6), ("float16", 3e-3), ("bfloat16", 2e-2)]
)
def test_narrow_inputs_are_summed_in_float32(dtype: str, tolerance: float) -> None:
    """Against float64 from the same rounded inputs: the error is that of rounding the results."""
    problem = Problem(SIZES[2], getattr(torch, dtype), index="int32")
    inputs = problem.attention_inputs
    with use_backend("triton"):
        got = gradients(attention(inputs, problem.edges), inputs)
    kinds = [t.dtype for t in got]
    assert kinds == [inputs[2].dtype, torch.float32, *(t.dtype for t in inputs)]
    assert_close(got, exact(inputs, problem.edges, "gb"), tolerance)


@compiled_or_interpreted
@pytest.mark.gpu
@pytest.mark.parametrize(
    "tile",
    [Tile(4, 1, 4, 8, 2, 1), Tile(4, 4, 1, 8, 2, 1), Tile(8, 2, 2, 16, 4, 2)],
    ids=["one edge at a time", "a head a program", "wide"],
)
def test_tiles_do_not_change_the_result(tile: Tile) -> None:
    """Rows longer and shorter than a step, heads in several programs, padding on every axis."""
    problem = Problem(SIZES[3])
    inputs = [t.detach() for t in problem.attention_inputs]
    q, k, v, x, w_x, gate, bias = inputs
    edges = problem.edges
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    operands = Operands(q, k, v, x, *graph, w_x, gate, 1.7, bias)
    grads = [torch.randn_like(q), torch.randn_like(x)]
    results = []
    for choice in (None, tile):
        out, dx, lse, moment = triton_launch.attention_forward(operands, choice)
        tiles = None if choice is None else (choice, choice)
        backward = triton_launch.attention_backward(*grads, operands, out, lse, moment, tiles)
        results.append([out, dx, lse, moment, *backward])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@compiled_or_interpreted
@pytest.mark.gpu
def test_same_bits_again() -> None:
    problem = Problem(SIZES[3], torch.float32)
    runs = []
    for _ in range(2):
        with use_backend("triton"):
            outputs = attention(problem.attention_inputs, problem.edges)
            runs.append(gradients(outputs, problem.attention_inputs))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@compiled_or_interpreted
@pytest.mark.gpu
def test_rows_without_weight_give_zero_and_zero_gradient() -> None:
    problem = Problem(SIZES[3], torch.float32)
    edges, inputs = problem.edges, problem.attention_inputs
    closed = int(edges.dst[-1])
    assert edges.in_degree[closed] > 0
    assert edges.in_degree[-1] == 0
    with use_backend("triton"):
        out, dx = attention(inputs, edges)
        rows = [closed, edges.num_nodes - 1]
        assert not out[rows].any()
        assert not dx[rows].any()
        total = out[rows].sum() + out[rows].square().sum() + dx[rows].sum()
        for gradient in torch.autograd.grad(total, inputs):
            assert (gradient == 0).all()


@compiled_or_interpreted
@pytest.mark.gpu
def test_extreme_logits_and_nan_stay_in_their_rows() -> None:
    problem = Problem(SIZES[3], torch.float32)
    q, k, v, x, w_x, gate, bias = (t.detach().clone() for t in problem.attention_inputs)
    with use_backend("triton"):
        for shift in (-3e4, 3e4):
            for result in attention([q, k, v, x, w_x, gate, bias * 100 + shift], problem.edges):
                assert result.isfinite().all()
        row = int(problem.edges.dst[0])
        q[row, 0] = torch.nan
        out, _ = attention([q, k, v, x, w_x, gate, bias], problem.edges)
    assert out[row, 0].isnan().all()
    assert out[torch.arange(len(out), device=DEVICE) != row].isfinite().all()


@compiled_or_interpreted
@pytest.mark.gpu
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    problem = Problem((5, 6, 2, 4, 2, 3, 5), torch.float32)
    edges = problem.edges
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    qkvx = (problem.q, problem.k, problem.v, problem.x)
    gate = problem.gate.detach().nan_to_num(neginf=-1.0).requires_grad_()
    for optional in ((gate, 2.0, problem.bias), (None, 1.0, None)):
        torch.library.opcheck(triton.attention, (*qkvx, *graph, problem.w_x, *optional))


@compiled_or_interpreted
@pytest.mark.gpu
def test_under_autocast_as_without() -> None:
    problem = Problem(SIZES[2], torch.bfloat16)
    inputs = problem.attention_inputs
    with use_backend("triton"):
        plain = gradients(attention(inputs, problem.edges), inputs)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            outputs = attention(inputs, problem.edges)
        assert all(
            torch.equal(a, b) for a, b in zip(gradients(outputs, inputs), plain, strict=True)
        )
