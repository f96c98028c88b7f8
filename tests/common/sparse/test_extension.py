"""The compiled library: PyTorch's operator checks, torch.compile, threads, instruction sets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sparse_problems import needs_extension
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.places import places_in_order
from common.sparse import (
    edge_gate,
    edge_perceptron,
    edge_softmax,
    extension,
    neighbor_attention,
    spmm,
)

EDGES = EdgeList.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 0, 0, 2]]), 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@needs_extension
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    rev_ptr, rev_edge = EDGES.by_source
    graph = (EDGES.src, EDGES.dst, EDGES.ptr)
    q, x, w_x = (draw(*s).requires_grad_() for s in ((4, 2, 8), (4, 2), (2, 2, 2)))
    gate, bias, dense = (draw(*s).requires_grad_() for s in ((4,), (4, 2), (4, 3)))
    ops = torch.ops.edgewise
    attention = (q, q, q, x, *graph, rev_ptr, rev_edge, w_x)
    torch.library.opcheck(ops.attention.default, (*attention, gate, 2.0, bias, None, None))
    torch.library.opcheck(ops.attention.default, (*attention, None, 1.0, None, None, None))
    rows, first, *moved = places_in_order(EDGES, torch.tensor([2, 0, 3, 1]))
    placed = (q, q, q, x, *moved, w_x, gate, 2.0, bias, rows, first)
    torch.library.opcheck(ops.attention.default, placed)
    points, gamma = (x, *graph, rev_ptr, rev_edge, w_x), draw(2).requires_grad_()
    torch.library.opcheck(ops.points.default, (*points, gate, 2.0, bias, gamma))
    torch.library.opcheck(ops.points.default, (*points, None, 1.0, None, None))
    torch.library.opcheck(ops.perceptron.default, (dense, draw(5, 3), draw(5), draw(2, 5)))
    torch.library.opcheck(ops.spmm.default, (gate, *graph, rev_ptr, rev_edge, dense))
    torch.library.opcheck(ops.log_softmax.default, (bias, EDGES.ptr))
    weights = [draw(*s).requires_grad_() for s in ((5, 6), (5, 5), (5,), (1, 5), (1,))]
    torch.library.opcheck(ops.edge_gate.default, (draw(4, 5), draw(4, 5), dense, *graph, *weights))


@needs_extension
def test_torch_compile_takes_the_operators_whole() -> None:
    """Without a graph break; values and gradients are those of eager mode."""

    def total(values: list[Tensor]) -> Tensor:
        q, k, v, x, w_x, h, gamma, w_in, b_in, w_out, *layers = values
        gate = edge_gate(h, edges, *layers)
        bias = edge_perceptron(h[edges.src] - h[edges.dst], w_in, b_in, w_out)
        empty = q[..., :0].detach()
        _, moved = neighbor_attention(
            empty, empty, empty, x, edges, w_x, gate=gate, bias=bias, gamma=gamma
        )
        out, dx = neighbor_attention(2 * q, k, v, x, edges, w_x, gate=gate)
        walk = spmm(edge_softmax(gate, edges), edges, dx)
        return out.square().sum() + walk.square().sum() + moved.square().sum()

    rng = torch.Generator().manual_seed(0)
    edges = EdgeList.from_edge_index(torch.randint(0, 9, (2, 60), generator=rng), 9)
    shapes = [
        *[(9, 2, 4)] * 3,
        (9, 2),
        (2, 2, 2),
        (9, 3),
        (2,),
        *[(4, 3), (4,), (2, 4)],
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


@needs_extension
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_the_library_asks_for_nothing_but_the_stable_functions_of_torch() -> None:
    """The stable ABI is C; a C++ name of torch, or one of Python, would tie it to one version."""
    run = subprocess.run(
        ["nm", "-D", "--undefined-only", extension.LIBRARY],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[-1].partition("@")[0] for line in run.stdout.splitlines()]
    assert "torch_library_impl" in names  # first in torch 2.10
    mangled = [name for name in names if re.match(r"_Z.*(2at|3c10|5torch|8torchgen)", name)]
    assert not mangled
    assert not [name for name in names if name.startswith(("Py", "_Py", "THP", "GOMP", "omp_"))]


@needs_extension
def test_tensors_of_another_type_are_refused() -> None:
    half, index = draw(4).half(), EDGES.src
    with pytest.raises(RuntimeError, match=r"^\"edgewise::gather_dot\" not implemented for 'Half'"):
        torch.ops.edgewise.gather_dot(index, index, half[:, None], half[:, None])
    with pytest.raises(RuntimeError, match=r"^expected scalar type Float but found Double"):
        torch.ops.edgewise.gather_dot(index, index, draw(4, 2), draw(4, 2).double())
    many = torch.zeros(4, 65, 1)
    rev_ptr, rev_edge = EDGES.by_source
    graph = (EDGES.src, EDGES.dst, EDGES.ptr, rev_ptr, rev_edge)
    with pytest.raises(RuntimeError, match=r"^at most 64 heads are supported, got 65$"):
        torch.ops.edgewise.attention(
            many, many, many, draw(4, 2), *graph, draw(65, 2, 2), None, 1.0, None, None, None
        )


def test_only_the_library_of_its_own_name_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build for one Python and one torch, left from elsewhere, does not get in its way."""
    (tmp_path / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(b"not a library")
    monkeypatch.setattr(extension, "LIBRARY", tmp_path / extension.LIBRARY.name)
    assert not extension.extension_loaded.__wrapped__()
    assert extension.LIBRARY.name == "_C.abi3.so"


def test_a_library_that_does_not_load_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_C.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(extension, "LIBRARY", tmp_path / "_C.abi3.so")
    with pytest.warns(RuntimeWarning, match=r"does not load .* needs torch 2\.10 or newer"):
        assert not extension.extension_loaded.__wrapped__()


@needs_extension
def test_the_extension_runs_on_all_threads_of_torch(keep_threads: None) -> None:
    """Without OpenMP at build time its loops compile, and run on one."""
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.ops.edgewise.threads_used() == count


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set_gives_the_plain_result(capability: str) -> None:
    """The choice is made once in a process, so the lesser ones run in one of their own."""
    code = """
import torch
from sparse_problems import SIZES, Problem, values_and_gradients
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
