"""Triton kernels of the edge gate against the plain form."""

from __future__ import annotations

import pytest
import torch
from triton_problems import (
    DEVICE,
    SIZES,
    Problem,
    assert_close,
    compiled_or_interpreted,
    gradients,
    needs_triton,
)

from common.sparse import edge_gate, use_backend
from common.sparse.gate import reference, triton
from common.sparse.gate.inputs import GateInputs

pytestmark = needs_triton


def test_what_the_kernels_do_not_serve() -> None:
    """Told without Triton; such calls go to block-wise PyTorch."""

    def inputs(hidden: int, features: int) -> GateInputs:
        shapes = [(hidden, 4 * features), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,)]
        return GateInputs(torch.zeros(3, features), *(torch.zeros(s) for s in shapes))

    assert triton.serves(inputs(64, 2)) is None
    assert triton.serves(inputs(65, 2)) == "takes 1 to 64 hidden units"
    assert triton.serves(inputs(0, 2)) == "takes 1 to 64 hidden units"
    assert triton.serves(inputs(3, 0)) == "takes at least one feature"


@compiled_or_interpreted
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [*SIZES, (3, 150, 1, 1, 1, 130, 20)], ids=str)
def test_edge_gate_matches_the_plain_form(size: tuple[int, ...], dtype: str) -> None:
    """Several blocks of features and tiles of edges in the last size; 1e-10, or 1e-5 in float32."""
    if dtype == "float64" and DEVICE == "cuda":
        wide = Problem(size)
        refusal = triton.serves(GateInputs(wide.h, *wide.layers))
        assert refusal == "takes float32 alone on CUDA devices"
    problem = Problem(size, getattr(torch, dtype))
    inputs = [problem.h, *problem.layers]
    assert DEVICE == "cuda" or triton.serves(GateInputs(problem.h, *problem.layers)) is None
    with use_backend("triton"):
        got = gradients([edge_gate(problem.h, problem.edges, *problem.layers)], inputs)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    want = gradients([reference.edge_gate(GateInputs(*wide), problem.edges)], wide)
    assert_close(got, want, 1e-10 if dtype == "float64" else 1e-5)


@compiled_or_interpreted
@pytest.mark.gpu
def test_same_bits_again() -> None:
    problem = Problem(SIZES[3], torch.float32)
    runs = []
    for _ in range(2):
        with use_backend("triton"):
            outputs = [edge_gate(problem.h, problem.edges, *problem.layers)]
            runs.append(gradients(outputs, [problem.h, *problem.layers]))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@compiled_or_interpreted
@pytest.mark.gpu
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    problem = Problem((5, 6, 2, 4, 2, 3, 5), torch.float32)
    edges = problem.edges
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    at_dst, at_src = problem.draw(torch.float32, 5, 5), problem.draw(torch.float32, 5, 5)
    w_in = problem.layers[0].detach()[:, :6].contiguous().requires_grad_()
    torch.library.opcheck(
        triton.gate, (at_dst, at_src, problem.h, *graph, w_in, *problem.layers[2:])
    )
