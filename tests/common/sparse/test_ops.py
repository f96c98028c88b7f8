"""Sparse operations: every backend against the plain forms, values and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import (
    attention_weights,
    compiled,
    edge_gate,
    edge_log_softmax,
    edge_softmax,
    neighbor_attention,
    spmm,
    use_backend,
)
from common.sparse.backend import extension_loaded

BACKENDS = [
    "torch",
    pytest.param(
        "cpp",
        marks=pytest.mark.skipif(not extension_loaded(), reason="the extension is not built"),
    ),
]
# nodes, edges, heads, head width, coordinates, features, hidden: sizes around the vector width (16)
# and the tiles (128 edges of a row, 192 edges of the gate), and well off them.
SIZES = [
    (1, 0, 1, 1, 2, 1, 1),
    (5, 1, 2, 3, 2, 3, 5),
    (7, 20, 3, 5, 3, 17, 15),
    (9, 193, 4, 32, 2, 128, 64),
    (4, 700, 2, 40, 2, 20, 33),
    (61, 1500, 4, 16, 2, 16, 16),
]

Op = Callable[[], list[Tensor]]


class Problem:
    """Random inputs on a random multigraph with a duplicate edge and an empty last row."""

    def __init__(self, size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
        nodes, edges, heads, width, coords, features, hidden = size
        self.rng = torch.Generator().manual_seed(sum(size))
        index = torch.randint(0, max(nodes - 1, 1), (2, edges), generator=self.rng)
        if edges > 1:
            index[:, 1] = index[:, 0]
        self.edges, self.dtype = EdgeList.from_edge_index(index, nodes), dtype
        self.q, self.k, self.v = (self.draw(nodes, heads, width) for _ in range(3))
        self.x, self.w_x = self.draw(nodes, coords), self.draw(heads, coords, coords)
        self.edge_logit, self.bias = self.draw(edges), self.draw(edges, heads)
        self.h, self.dense = self.draw(nodes, features), self.draw(nodes, features)
        self.layers = [
            self.draw(hidden, 4 * features, scale=features**-0.5),
            self.draw(hidden),
            self.draw(hidden, hidden, scale=hidden**-0.5),
            self.draw(hidden),
            self.draw(1, hidden),
            self.draw(1),
        ]

    def draw(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*shape, generator=self.rng, dtype=torch.float64) * scale
        return values.to(self.dtype).requires_grad_()

    def operations(self) -> dict[str, tuple[Op, list[Tensor]]]:
        """Each operation with the tensors it is differentiated in."""
        qkvxw = [self.q, self.k, self.v, self.x, self.w_x]
        gate, bias, edges = self.edge_logit, self.bias, self.edges

        def attention(gate: Tensor | None, bias: Tensor | None) -> Op:
            return lambda: list(
                neighbor_attention(
                    self.q, self.k, self.v, self.x, edges, self.w_x, gate=gate, beta=1.7, bias=bias
                )
            )

        return {
            "attention": (attention(None, None), qkvxw),
            "attention, gate": (attention(gate, None), [*qkvxw, gate]),
            "attention, gate and bias": (attention(gate, bias), [*qkvxw, gate, bias]),
            "edge_gate": (
                lambda: [edge_gate(self.h, edges, *self.layers)],
                [self.h, *self.layers],
            ),
            "spmm": (lambda: [spmm(gate, edges, self.dense)], [gate, self.dense]),
            "softmax": (lambda: [edge_softmax(gate, edges)], [gate]),
            "log_softmax of heads": (lambda: [edge_log_softmax(bias, edges)], [bias]),
        }


def values_and_gradients(op: Op, inputs: list[Tensor], seed: int = 1) -> list[Tensor]:
    """Outputs of ``op``, then the gradients of their product with fixed random numbers."""
    rng = torch.Generator().manual_seed(seed)
    outputs = op()
    weights = [torch.randn(o.shape, generator=rng, dtype=torch.float64).to(o) for o in outputs]
    total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    assert isinstance(total, Tensor)
    return [o.detach() for o in outputs] + list(torch.autograd.grad(total, inputs))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backends_match_the_plain_forms(backend: str, size: tuple[int, ...]) -> None:
    """To 1e-10 in float64, relative to the largest entry."""
    for name, (op, inputs) in Problem(size).operations().items():
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        with use_backend(backend):  # type: ignore[arg-type]
            computed = values_and_gradients(op, inputs)
        for n, (want, got) in enumerate(zip(expected, computed, strict=True)):
            assert got.shape == want.shape, (name, n)
            scale = max(float(want.abs().max()), 1.0) if want.numel() else 1.0
            assert float((got - want).abs().sum()) <= 1e-10 * scale, (name, n)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_int32_indices_give_the_same_bits(backend: str) -> None:
    problem = Problem(SIZES[-1])
    with use_backend(backend):  # type: ignore[arg-type]
        wide = {n: values_and_gradients(*o) for n, o in problem.operations().items()}
        problem.edges = problem.edges.int32()
        assert problem.edges.by_source[1].dtype == torch.int32
        narrow = {n: values_and_gradients(*o) for n, o in problem.operations().items()}
    for name, tensors in wide.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, narrow[name], strict=True)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES[3:], ids=str)
def test_float32_stays_within_its_rounding(backend: str, size: tuple[int, ...]) -> None:
    """Errors against float64 stay below 2e-5 of the largest entry, for values and gradients."""
    exact, single = Problem(size), Problem(size, torch.float32)
    for name, (op, inputs) in exact.operations().items():
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        op, inputs = single.operations()[name]
        with use_backend(backend):  # type: ignore[arg-type]
            computed = values_and_gradients(op, inputs)
        for want, got in zip(expected, computed, strict=True):
            assert got.dtype == torch.float32
            error = float((got - want).abs().max()) / max(float(want.abs().max()), 1.0)
            assert error < 2e-5, (name, error)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_match_finite_differences(backend: str) -> None:
    problem = Problem((5, 9, 2, 3, 2, 3, 4))
    with use_backend(backend):  # type: ignore[arg-type]
        for op, inputs in problem.operations().values():
            torch.autograd.gradcheck(lambda *_, op=op: tuple(op()), inputs)


def test_attention_equals_masked_dense_attention() -> None:
    """On a graph without duplicates: softmax over a dense masked matrix of logits."""
    rng = torch.Generator().manual_seed(3)
    nodes, heads, width = 23, 4, 32
    mask = torch.rand(nodes, nodes, generator=rng) < 0.4
    mask[5] = False
    edges = EdgeList.from_edge_index(mask.T.nonzero().T, nodes)
    q, k, v = (
        torch.randn(nodes, heads, width, generator=rng, dtype=torch.float64) for _ in range(3)
    )
    x = torch.randn(nodes, 2, generator=rng, dtype=torch.float64)
    w_x = torch.randn(heads, 2, 2, generator=rng, dtype=torch.float64)
    gate = torch.randn(edges.num_edges, generator=rng, dtype=torch.float64)
    dense_gate = torch.zeros(nodes, nodes, dtype=torch.float64)
    dense_gate[edges.dst, edges.src] = gate
    logits = torch.einsum("ihd,jhd->ijh", q, k) / width**0.5 + 2.0 * dense_gate[:, :, None]
    weights = logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(1).nan_to_num(0)
    out, dx = neighbor_attention(q, k, v, x, edges, w_x, gate=gate, beta=2.0)
    torch.testing.assert_close(out, torch.einsum("ijh,jhd->ihd", weights, v))
    step = torch.einsum("ijh,hcd,ijd->ic", weights, w_x, x[None] - x[:, None])
    torch.testing.assert_close(dx, step)
    torch.testing.assert_close(
        attention_weights(q, k, edges, gate=gate, beta=2.0), weights[edges.dst, edges.src]
    )


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_rows_without_weight_give_zero_and_zero_gradient(backend: str) -> None:
    """No edges, or only edges whose gate is minus infinity."""
    problem = Problem((9, 193, 4, 32, 2, 128, 64))
    edges = problem.edges
    closed = edges.dst == 2
    assert closed.any()
    gate = problem.edge_logit.detach().masked_fill(closed, -torch.inf).requires_grad_()
    inputs = [problem.q, problem.x, problem.v, gate]
    with use_backend(backend):  # type: ignore[arg-type]
        out, dx = neighbor_attention(
            problem.q, problem.k, problem.v, problem.x, edges, problem.w_x, gate=gate
        )
        empty = [2, edges.num_nodes - 1]
        own = out[empty].square().sum() + out[empty].sum() + dx[empty].sum()
        for gradient in torch.autograd.grad(own, inputs):
            assert (gradient == 0).all()
    assert (out[empty] == 0).all()
    assert (dx[empty] == 0).all()
    assert (edge_softmax(gate, edges)[closed] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_logits_do_not_overflow(backend: str) -> None:
    problem = Problem((61, 1500, 4, 16, 2, 16, 16), torch.float32)
    for shift in (-3e4, 3e4):
        with use_backend(backend):  # type: ignore[arg-type]
            bias = problem.bias * 100 + shift
            out, dx = neighbor_attention(
                problem.q, problem.k, problem.v, problem.x, problem.edges, problem.w_x, bias=bias
            )
        assert out.isfinite().all()
        assert dx.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_passed_on_and_stays_in_its_row(backend: str) -> None:
    problem = Problem((61, 1500, 4, 16, 2, 16, 16))
    q = problem.q.detach().clone()
    q[3, 0, 0] = torch.nan
    with use_backend(backend):  # type: ignore[arg-type]
        out, _ = neighbor_attention(q, problem.k, problem.v, problem.x, problem.edges, problem.w_x)
    assert out[3, 0].isnan().all()
    assert out[torch.arange(61) != 3].isfinite().all()


@pytest.mark.skipif(not extension_loaded(), reason="the extension is not built")
def test_the_extension_runs_on_all_threads_of_torch(threads: None) -> None:
    """Without OpenMP at build time its loops compile, and run on one."""
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.ops.edgewise.threads_used() == count


@pytest.mark.skipif(not extension_loaded(), reason="the extension is not built")
def test_same_bits_for_every_run_and_thread_count(threads: None) -> None:
    """The compiled operators; PyTorch's products for the node parts of the gate stay outside."""
    problem = Problem((301, 40000, 4, 32, 2, 32, 16), torch.float32)
    w_in, at_dst, at_src = problem.draw(16, 64), problem.draw(301, 16), problem.draw(301, 16)
    gate_inputs = [at_dst, at_src, problem.h, w_in, *problem.layers[2:]]
    operations = problem.operations()
    operations["edge_gate"] = (
        lambda: [
            compiled.edge_gate(at_dst, at_src, problem.h, problem.edges, w_in, *problem.layers[2:])
        ],
        gate_inputs,
    )
    runs = []
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        runs.append([t for op in operations.values() for t in values_and_gradients(*op)])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback with blocks smaller than some rows and a last one that is short."""
    problem = Problem((7, 200, 2, 5, 2, 6, 8))
    for op, inputs in problem.operations().values():
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        monkeypatch.setattr("common.sparse.blockwise.BLOCK_EDGES", 25)
        with use_backend("torch"):
            computed = values_and_gradients(op, inputs)
        torch.testing.assert_close(computed, expected)


def test_half_precision_is_computed_in_float32() -> None:
    problem = Problem((9, 193, 4, 32, 2, 128, 64), torch.float32)
    q, k, v = (t.detach().bfloat16() for t in (problem.q, problem.k, problem.v))
    x, w_x = problem.x.detach(), problem.w_x.detach()
    out, dx = neighbor_attention(q, k, v, x, problem.edges, w_x)
    exact, exact_dx = neighbor_attention(q.float(), k.float(), v.float(), x, problem.edges, w_x)
    assert out.dtype == torch.bfloat16
    assert dx.dtype == torch.float32
    torch.testing.assert_close(out, exact.bfloat16())
    torch.testing.assert_close(dx, exact_dx)
