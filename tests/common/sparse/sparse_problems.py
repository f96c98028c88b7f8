"""Problems and properties that the tests of all sparse operations share.

Every operation is compared with its plain form, values and all gradients, on every backend.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import (
    edge_gate,
    edge_log_softmax,
    edge_softmax,
    neighbor_attention,
    spmm,
    use_backend,
)
from common.sparse.extension import extension_loaded

needs_extension = pytest.mark.skipif(not extension_loaded(), reason="the extension is not built")
BACKENDS = ["torch", pytest.param("cpp", marks=needs_extension)]
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
        self.gamma = (0.3 * self.draw(heads)).detach().requires_grad_()  # of either sign
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

        def distances(width: int | None, *given: Tensor) -> Op:
            q, k, v = (t[..., :width] for t in (self.q, self.k, self.v))
            told = dict(zip(("gate", "bias"), given, strict=False))
            return lambda: list(
                neighbor_attention(
                    q, k, v, self.x, edges, self.w_x, beta=0.6, gamma=self.gamma, **told
                )
            )

        points = [self.x, self.w_x, self.gamma]
        return {
            "distances": (distances(None, gate, bias), [*qkvxw, gate, bias, self.gamma]),
            "points": (distances(0, gate, bias), [*points, gate, bias]),
            "points by distance alone": (distances(0), points),
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


def matches_the_plain_form(
    backend: str, size: tuple[int, ...], names: list[str], edges: EdgeList | None = None
) -> None:
    """To 1e-10 in float64, relative to the largest entry; on other edges of the size if given."""
    problem = Problem(size)
    problem.edges = problem.edges if edges is None else edges
    operations = problem.operations()
    for name in names:
        op, inputs = operations[name]
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        with use_backend(backend):  # type: ignore[arg-type]
            computed = values_and_gradients(op, inputs)
        for n, (want, got) in enumerate(zip(expected, computed, strict=True)):
            assert got.shape == want.shape, (name, n)
            scale = max(float(want.abs().max()), 1.0) if want.numel() else 1.0
            assert float((got - want).abs().sum()) <= 1e-10 * scale, (name, n)


def int32_gives_the_same_bits(backend: str, names: list[str]) -> None:
    problem = Problem(SIZES[-1])
    with use_backend(backend):  # type: ignore[arg-type]
        wide = {n: values_and_gradients(*problem.operations()[n]) for n in names}
        problem.edges = problem.edges.int32()
        assert problem.edges.by_source[1].dtype == torch.int32
        narrow = {n: values_and_gradients(*problem.operations()[n]) for n in names}
    for name, tensors in wide.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, narrow[name], strict=True)), name


def float32_stays_within_its_rounding(
    backend: str, size: tuple[int, ...], names: list[str]
) -> None:
    """Errors against float64 stay below 2e-5 of the largest entry, for values and gradients."""
    exact, single = Problem(size), Problem(size, torch.float32)
    for name in names:
        op, inputs = exact.operations()[name]
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        op, inputs = single.operations()[name]
        with use_backend(backend):  # type: ignore[arg-type]
            computed = values_and_gradients(op, inputs)
        for want, got in zip(expected, computed, strict=True):
            assert got.dtype == torch.float32
            if not want.numel():
                continue
            error = float((got - want).abs().max()) / max(float(want.abs().max()), 1.0)
            assert error < 2e-5, (name, error)


def gradients_match_finite_differences(backend: str, names: list[str]) -> None:
    problem = Problem((5, 9, 2, 3, 2, 3, 4))
    with use_backend(backend):  # type: ignore[arg-type]
        for name in names:
            op, inputs = problem.operations()[name]
            torch.autograd.gradcheck(lambda *_, op=op: tuple(op()), inputs)


def blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """The fallback with blocks smaller than some rows and a last one that is short."""
    problem = Problem((7, 200, 2, 5, 2, 6, 8))
    for name in names:
        op, inputs = problem.operations()[name]
        with use_backend("reference"):
            expected = values_and_gradients(op, inputs)
        monkeypatch.setattr("common.sparse.segments.blockwise.BLOCK_EDGES", 25)
        with use_backend("torch"):
            computed = values_and_gradients(op, inputs)
        torch.testing.assert_close(computed, expected)


def same_bits_for_every_thread_count(operations: dict[str, tuple[Op, list[Tensor]]]) -> None:
    runs = []
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            runs.append([t for op in operations.values() for t in values_and_gradients(*op)])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
