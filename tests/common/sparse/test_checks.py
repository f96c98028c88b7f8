"""Sparse operations: what they refuse, the choice of backend, and PyTorch's operator checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import (
    backend_for,
    edge_gate,
    edge_softmax,
    neighbor_attention,
    spmm,
    use_backend,
)
from common.sparse.backend import extension_loaded

needs_extension = pytest.mark.skipif(not extension_loaded(), reason="the extension is not built")
EDGES = EdgeList.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 0, 0, 2]]), 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_wrong_shapes_are_named() -> None:
    q, x, w_x = draw(4, 2, 8), draw(4, 2), draw(2, 2, 2)
    with pytest.raises(ValueError, match=r"q must have shape .*got \(3, 2, 8\)"):
        neighbor_attention(q[:3], q, q, x, EDGES, w_x)
    with pytest.raises(ValueError, match="k must have shape"):
        neighbor_attention(q, q[:, :1], q, x, EDGES, w_x)
    with pytest.raises(ValueError, match="w_x must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x[:1])
    with pytest.raises(ValueError, match="gate must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x, gate=draw(5))
    with pytest.raises(ValueError, match="bias must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x, bias=draw(4))
    with pytest.raises(ValueError, match="w1 must have shape"):
        edge_gate(draw(4, 3), EDGES, draw(5, 9), draw(5), draw(5, 5), draw(5), draw(1, 5), draw(1))
    with pytest.raises(ValueError, match="weight must have shape"):
        spmm(draw(3), EDGES, draw(4, 2))
    with pytest.raises(ValueError, match="logits must have shape"):
        edge_softmax(draw(3), EDGES)


def test_mixed_and_integer_types_are_named() -> None:
    with pytest.raises(ValueError, match=r"dense must have the dtype of weight, torch.float32"):
        spmm(draw(4), EDGES, draw(4, 2).double())
    with pytest.raises(ValueError, match="weight must be floating"):
        spmm(torch.ones(4, dtype=torch.long), EDGES, draw(4, 2))


def test_backend_choice() -> None:
    with pytest.raises(ValueError, match="backend must be one of"), use_backend("gpu"):  # type: ignore[arg-type]
        pass
    with use_backend("torch"):
        assert backend_for(draw(1)) == "torch"
        with use_backend("reference"):
            assert backend_for(draw(1)) == "reference"
        assert backend_for(draw(1)) == "torch"


def test_without_the_extension_one_warning_and_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from common.sparse import backend

    expected = spmm(draw(4), EDGES, draw(4, 2))
    monkeypatch.setattr(backend, "extension_loaded", lambda: False)
    backend._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="extension is not built"):
        first = spmm(draw(4), EDGES, draw(4, 2))
    spmm(draw(4), EDGES, draw(4, 2))  # a second warning would be an error here
    torch.testing.assert_close(first, expected)
    with pytest.raises(RuntimeError, match="needs the compiled extension"), use_backend("cpp"):
        pass


@needs_extension
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    rev_ptr, rev_edge = EDGES.by_source
    graph = (EDGES.src, EDGES.dst, EDGES.ptr)
    q, x, w_x = (draw(*s).requires_grad_() for s in ((4, 2, 8), (4, 2), (2, 2, 2)))
    gate, bias, dense = (draw(*s).requires_grad_() for s in ((4,), (4, 2), (4, 3)))
    ops = torch.ops.edgewise
    attention = (q, q, q, x, *graph, rev_ptr, rev_edge, w_x)
    torch.library.opcheck(ops.attention.default, (*attention, gate, 2.0, bias))
    torch.library.opcheck(ops.attention.default, (*attention, None, 1.0, None))
    torch.library.opcheck(ops.spmm.default, (gate, *graph, rev_ptr, rev_edge, dense))
    torch.library.opcheck(ops.log_softmax.default, (bias, EDGES.ptr))
    weights = [draw(*s).requires_grad_() for s in ((5, 6), (5, 5), (5,), (1, 5), (1,))]
    torch.library.opcheck(ops.edge_gate.default, (draw(4, 5), draw(4, 5), dense, *graph, *weights))


@needs_extension
def test_torch_compile_takes_the_operators_whole() -> None:
    """Without a graph break; values and gradients are those of eager mode."""

    def total(values: list[Tensor]) -> Tensor:
        q, k, v, x, w_x, h, *layers = values
        gate = edge_gate(h, edges, *layers)
        out, dx = neighbor_attention(2 * q, k, v, x, edges, w_x, gate=gate)
        walk = spmm(edge_softmax(gate, edges), edges, dx)
        return out.square().sum() + walk.square().sum()

    rng = torch.Generator().manual_seed(0)
    edges = EdgeList.from_edge_index(torch.randint(0, 9, (2, 60), generator=rng), 9)
    shapes = [
        *[(9, 2, 4)] * 3,
        (9, 2),
        (2, 2, 2),
        (9, 3),
        (5, 12),
        (5,),
        (5, 5),
        (5,),
        (1, 5),
        (1,),
    ]
    values = [torch.randn(s, generator=rng).double().requires_grad_() for s in shapes]
    torch._dynamo.reset()
    compiled_total = torch.compile(total, backend="aot_eager", fullgraph=True)(values)
    eager_total = total(values)
    torch.testing.assert_close(compiled_total, eager_total, rtol=1e-12, atol=0)
    pairs = zip(
        torch.autograd.grad(compiled_total, values),
        torch.autograd.grad(eager_total, values),
        strict=True,
    )
    for got, want in pairs:
        assert bool(want.any())
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set_gives_the_plain_result(capability: str) -> None:
    """The choice is made once in a process, so the lesser ones run in one of their own."""
    code = """
import torch
from test_ops import SIZES, Problem, values_and_gradients
from common.sparse import use_backend
for size in SIZES:
    for op, inputs in Problem(size).operations().values():
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        with use_backend("cpp"):
            computed = values_and_gradients(op, inputs)
        torch.testing.assert_close(computed, expected, rtol=1e-9, atol=1e-9)
print(torch.ops.edgewise.cpu_capability())
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[2])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "EDGEWISE_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() in (capability, "default")
