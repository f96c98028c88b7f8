"""Triton kernels against the plain forms: interpreted on CPU, and compiled on CUDA devices.

Triton decides at import whether to interpret, so the interpreted cases run in a process of their
own, started here with TRITON_INTERPRET=1; without it, this file's cases run compiled on a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import (
    backend_for,
    edge_gate,
    edge_log_softmax,
    neighbor_attention,
    reference,
    spmm,
    triton_launch,
    triton_ops,
    triton_segment_ops,
    use_backend,
)
from common.sparse.backend import triton_installed, triton_interpreted
from common.sparse.triton_launch import Tile

pytestmark = pytest.mark.skipif(not triton_installed(), reason="Triton is not installed")
INTERPRETED = triton_interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
compiled_or_interpreted = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no CUDA device; the same cases run interpreted, in test_interpreted_kernels",
)
# nodes, edges, heads, head width, coordinates, features, hidden, beside powers of two and on them
SIZES = [
    (1, 0, 1, 1, 1, 1, 1),
    (5, 1, 2, 3, 2, 3, 5),
    (7, 40, 3, 5, 3, 17, 15),
    (11, 60, 4, 8, 2, 16, 16),
]


@pytest.mark.skipif(INTERPRETED, reason="already inside the process that this test starts")
def test_interpreted_kernels() -> None:
    """Every other case of this file, on CPU; none may be skipped there."""
    root = Path(__file__).resolve().parents[3]
    outside = "not test_not_ and not test_interpreted_kernels"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", outside]
    run = subprocess.run(
        [*command, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = run.stdout.strip().splitlines()[-1]
    assert "passed" in summary, run.stdout
    assert "skipped" not in summary, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="about processes that do not interpret")
def test_not_on_cpu_without_the_interpreter() -> None:
    edges = EdgeList.from_edge_index(torch.tensor([[0], [1]]), 2)
    with (
        use_backend("triton"),
        pytest.raises(
            RuntimeError, match=r"needs CUDA tensors, got a tensor on cpu; .*INTERPRET=1"
        ),
    ):
        spmm(torch.ones(1), edges, torch.ones(2, 3))


@pytest.mark.skipif(INTERPRETED, reason="about processes that do not interpret")
def test_not_imported_with_the_package() -> None:
    code = "import sys, common.sparse; assert 'triton' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.sparse.backend.triton_installed", lambda: False)
    with pytest.raises(RuntimeError, match="needs Triton"), use_backend("triton"):
        pass


class Problem:
    """Random inputs on a random multigraph with a duplicate edge, one row closed, one empty."""

    def __init__(
        self, size: tuple[int, ...], dtype: torch.dtype = torch.float64, index: str = "int64"
    ) -> None:
        nodes, edges, heads, width, coords, features, hidden = size
        self.rng = torch.Generator().manual_seed(sum(size))
        pairs = torch.randint(0, max(nodes - 1, 1), (2, edges), generator=self.rng)
        if edges > 1:
            pairs[:, 1] = pairs[:, 0]
        self.edges = EdgeList.from_edge_index(pairs.to(getattr(torch, index)), nodes).to(DEVICE)
        self.q, self.k, self.v = (self.draw(dtype, nodes, heads, width) for _ in range(3))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.x, self.w_x = self.draw(wide, nodes, coords), self.draw(wide, heads, coords, coords)
        self.gate, self.bias = self.draw(wide, edges), self.draw(wide, edges, heads)
        if edges > 1:
            with torch.no_grad():
                self.gate[self.edges.dst == self.edges.dst[-1]] = -torch.inf
        self.h = self.draw(wide, nodes, features)
        self.layers = [
            self.draw(wide, hidden, 4 * features),
            self.draw(wide, hidden),
            self.draw(wide, hidden, hidden),
            self.draw(wide, hidden),
            self.draw(wide, 1, hidden),
            self.draw(wide, 1),
        ]

    def draw(self, dtype: torch.dtype, *shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        values = torch.randn(*shape, generator=self.rng, dtype=torch.float64) * scale
        return values.to(device=DEVICE, dtype=dtype).requires_grad_()

    @property
    def attention_inputs(self) -> list[Tensor]:
        return [self.q, self.k, self.v, self.x, self.w_x, self.gate, self.bias]


def attention(inputs: list[Tensor], edges: EdgeList, flags: str = "gb") -> list[Tensor]:
    q, k, v, x, w_x, gate, bias = inputs
    with_gate, with_bias = "g" in flags, "b" in flags
    return list(
        neighbor_attention(
            *(q, k, v, x, edges, w_x),
            gate=gate if with_gate else None,
            beta=1.7,
            bias=bias if with_bias else None,
        )
    )


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, then the gradients of their product with fixed random numbers; unused give zero.

    The numbers fit bfloat16, so that they are the same for outputs of every type.
    """
    rng = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=rng).bfloat16().to(o) for o in outputs]
    total = torch.stack([(o * w).double().sum() for o, w in zip(outputs, weights, strict=True)])
    grads = torch.autograd.grad(total.sum(), inputs, allow_unused=True)
    zeros = (torch.zeros_like(t) for t in inputs)
    filled = [z if g is None else g for g, z in zip(grads, zeros, strict=True)]
    return [o.detach() for o in outputs] + filled


def exact(inputs: list[Tensor], edges: EdgeList, flags: str) -> list[Tensor]:
    """Plain form in float64 from the same (rounded) numbers."""
    wide = [t.detach().double().requires_grad_() for t in inputs]
    with use_backend("reference"):
        return gradients(attention(wide, edges, flags), wide)


def assert_close(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Relative to the largest entry of each tensor (at least 1); NaN never passes."""
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.shape == w.shape, n
        if w.numel():
            error = float((g.double() - w).abs().max()) / max(float(w.abs().max()), 1.0)
            assert error <= tolerance, (n, error)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory from ``torch.empty`` and the like holds NaN, so that an unwritten output shows."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty

    def fill(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k)))


@compiled_or_interpreted
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "flags"),
    [*((size, "gb") for size in SIZES), (SIZES[2], ""), (SIZES[3], "g")],
    ids=str,
)
def test_attention_matches_the_plain_form(
    size: tuple[int, ...], flags: str, poisoned: None
) -> None:
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
def test_narrow_inputs_are_summed_in_float32(dtype: str, tolerance: float, poisoned: None) -> None:
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
    grads = [torch.randn_like(q), torch.randn_like(x)]
    forward = (q, k, v, x, edges.src, edges.ptr, w_x, gate, 1.7, bias)
    attention_backward: Any = triton_launch.attention_backward
    results = []
    for choice in (None, tile):
        out, dx, lse, moment = triton_launch.attention_forward(*forward, tile=choice)
        tiles = None if choice is None else (choice, choice)
        backward = attention_backward(
            *(*grads, q, k, v, x, *graph, w_x, gate, 1.7, bias, out, lse, moment), tiles=tiles
        )
        results.append([out, dx, lse, moment, *backward])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@compiled_or_interpreted
@pytest.mark.gpu
def test_same_bits_again() -> None:
    problem = Problem(SIZES[3], torch.float32)
    inputs = [*problem.attention_inputs, problem.h, *problem.layers]
    runs = []
    for _ in range(2):
        with use_backend("triton"):
            outputs = attention(inputs[:7], problem.edges)
            outputs.append(edge_gate(problem.h, problem.edges, *problem.layers))
            outputs.append(edge_log_softmax(problem.bias, problem.edges))
            outputs.append(spmm(problem.bias[:, 0], problem.edges, problem.h))
            runs.append(gradients(outputs, inputs))
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
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [*SIZES, (3, 150, 1, 1, 1, 130, 20)], ids=str)
def test_edge_gate_matches_the_plain_form(
    size: tuple[int, ...], dtype: str, poisoned: None
) -> None:
    """Several blocks of features and tiles of edges in the last size; 1e-10, or 1e-5 in float32."""
    if dtype == "float64" and DEVICE == "cuda":
        assert not triton_ops.triton_serves_gate(
            torch.empty(1, 1, dtype=torch.float64).cuda(), torch.empty(1, 1)
        )
    problem = Problem(size, getattr(torch, dtype))
    inputs = [problem.h, *problem.layers]
    with use_backend("triton"):
        got = gradients([edge_gate(problem.h, problem.edges, *problem.layers)], inputs)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    want = gradients([reference.edge_gate(wide[0], problem.edges, *wide[1:])], wide)
    assert_close(got, want, 1e-10 if dtype == "float64" else 1e-5)


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
def test_operators_pass_the_checks_of_torch_library() -> None:
    """Schema, fake shapes and autograd registration, as torch.compile needs them."""
    problem = Problem((5, 6, 2, 4, 2, 3, 5), torch.float32)
    edges = problem.edges
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    qkvx = (problem.q, problem.k, problem.v, problem.x)
    gate = problem.gate.detach().nan_to_num(neginf=-1.0).requires_grad_()
    for optional in ((gate, 2.0, problem.bias), (None, 1.0, None)):
        torch.library.opcheck(triton_ops.attention, (*qkvx, *graph, problem.w_x, *optional))
    at_dst, at_src = problem.draw(torch.float32, 5, 5), problem.draw(torch.float32, 5, 5)
    w_in = problem.layers[0].detach()[:, :6].contiguous().requires_grad_()
    torch.library.opcheck(triton_segment_ops.product, (gate, *graph, problem.h))
    torch.library.opcheck(triton_segment_ops.log_softmax, (problem.bias, edges.ptr))
    torch.library.opcheck(
        triton_ops.gate, (at_dst, at_src, problem.h, *graph, w_in, *problem.layers[2:])
    )


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


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")
def test_not_asked_for_on_cuda_it_still_runs() -> None:
    assert importlib.util.find_spec("triton") is not None
    assert backend_for(torch.ones(1, device="cuda")) == "triton"
