"""Neighbour attention: every backend against the plain form, values and all gradients."""

from __future__ import annotations

import pytest
import torch
from sparse_problems import (
    BACKENDS,
    SIZES,
    Problem,
    blocks_do_not_change_the_result,
    float32_stays_within_its_rounding,
    gradients_match_finite_differences,
    int32_gives_the_same_bits,
    matches_the_plain_form,
    needs_extension,
    same_bits_for_every_thread_count,
    values_and_gradients,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.graph.edges import EdgeList
from common.graph.places import places_in_order
from common.sparse import attention_weights, neighbor_attention, use_backend

NAMES = ["attention", "attention, gate", "attention, gate and bias"]
NAMES += ["distances", "points", "points by distance alone"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_plain_form(backend: str, size: tuple[int, ...]) -> None:
    matches_the_plain_form(backend, size, NAMES)


@pytest.mark.parametrize("width", [16, 32, 40])
@needs_extension
def test_tables_beyond_the_cache_match_the_plain_form(width: int) -> None:
    """Their rows are asked for ahead: q takes more than 4 MiB.  Degrees, in and out, go from 0 to
    far beyond a tile."""
    nodes = 2**22 // (8 * 4 * width) + 1
    size = (nodes, 10 * nodes, 4, width, 2, 1, 1)
    rng = torch.Generator().manual_seed(0)
    skewed = (nodes * torch.rand(2, 10 * nodes, generator=rng) ** 3).long()
    edges = EdgeList.from_edge_index(skewed, nodes)
    assert int(edges.in_degree.min()) == 0
    assert int(edges.in_degree.max()) > 300
    matches_the_plain_form("cpp", size, ["attention", "attention, gate and bias"], edges)


PLACED = ["attention", "attention, gate", "attention, gate and bias", "distances"]


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(61, 1500, 4, 16, 2, 1, 1), (40, 900, 3, 5, 3, 1, 1)], ids=str)
def test_the_order_that_nodes_are_read_in_changes_no_bit(
    size: tuple[int, ...], dtype: torch.dtype
) -> None:
    problem = Problem(size, dtype)
    rows = torch.randperm(size[0], generator=torch.Generator().manual_seed(4))
    for name in PLACED:
        plain = values_and_gradients(*problem.operations()[name])
        problem.edges.derived["places"] = places_in_order(problem.edges, rows)
        placed = values_and_gradients(*problem.operations()[name])
        del problem.edges.derived["places"]
        for n, (want, got) in enumerate(zip(plain, placed, strict=True)):
            assert torch.equal(got, want), (name, n)


@needs_extension
def test_places_are_what_the_kernels_read() -> None:
    """With the places of another graph the result is that graph's."""
    problem = Problem(SIZES[-1])
    other = EdgeList.from_edge_index(problem.edges.edge_index.flip(0), problem.edges.num_nodes)
    mine = values_and_gradients(*problem.operations()["attention"])
    rows = torch.arange(other.num_nodes).flip(0)
    problem.edges.derived["places"] = places_in_order(other, rows)
    misled = values_and_gradients(*problem.operations()["attention"])
    problem.edges = other
    for own, got, want in zip(
        mine, misled, values_and_gradients(*problem.operations()["attention"]), strict=True
    ):
        assert torch.equal(got, want)
        assert not torch.equal(got, own)


@needs_extension
def test_torch_compile_takes_places() -> None:
    problem = Problem(SIZES[-1])
    rows = torch.arange(problem.edges.num_nodes).flip(0)
    problem.edges.derived["places"] = places_in_order(problem.edges, rows)
    op, _ = problem.operations()["attention, gate"]
    whole = torch.compile(op, backend="eager", fullgraph=True)
    for want, got in zip(op(), whole(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_under_checkpointing_as_without(backend: str) -> None:
    problem = Problem(SIZES[-1])
    op, inputs = problem.operations()["attention, gate and bias"]

    def kept() -> list[Tensor]:
        return list(checkpoint(lambda: tuple(op()), use_reentrant=False))

    with use_backend(backend):  # type: ignore[arg-type]
        pairs = zip(
            values_and_gradients(op, inputs), values_and_gradients(kept, inputs), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_int32_indices_give_the_same_bits(backend: str) -> None:
    int32_gives_the_same_bits(backend, NAMES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES[3:], ids=str)
def test_float32_stays_within_its_rounding(backend: str, size: tuple[int, ...]) -> None:
    float32_stays_within_its_rounding(backend, size, NAMES)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_match_finite_differences(backend: str) -> None:
    gradients_match_finite_differences(backend, NAMES)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks_do_not_change_the_result(monkeypatch, NAMES)


@needs_extension
def test_same_bits_for_every_run_and_thread_count() -> None:
    problem = Problem((301, 40000, 4, 32, 2, 32, 16), torch.float32)
    same_bits_for_every_thread_count({n: problem.operations()[n] for n in NAMES})


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
    gamma = torch.rand(heads, generator=rng, dtype=torch.float64)
    dense_gate = torch.zeros(nodes, nodes, dtype=torch.float64)
    dense_gate[edges.dst, edges.src] = gate
    logits = torch.einsum("ihd,jhd->ijh", q, k) / width**0.5 + 2.0 * dense_gate[:, :, None]
    weights = logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(1).nan_to_num(0)
    out, dx = neighbor_attention(q, k, v, x, edges, w_x, gate=gate, beta=2.0)
    torch.testing.assert_close(out, torch.einsum("ijh,jhd->ihd", weights, v))
    step = torch.einsum("ijh,hcd,ijd->ic", weights, w_x, x[None] - x[:, None])
    torch.testing.assert_close(dx, step)
    square = (x[None] - x[:, None]).square().sum(2)
    far = (logits - gamma * square[:, :, None]).masked_fill(~mask[:, :, None], -torch.inf)
    far = far.softmax(1).nan_to_num(0)
    out, dx = neighbor_attention(q, k, v, x, edges, w_x, gate=gate, beta=2.0, gamma=gamma)
    torch.testing.assert_close(out, torch.einsum("ijh,jhd->ihd", far, v))
    step = torch.einsum("ijh,hcd,ijd->ic", far, w_x, x[None] - x[:, None])
    torch.testing.assert_close(dx, step)
    torch.testing.assert_close(
        attention_weights(q, k, edges, gate=gate, beta=2.0), weights[edges.dst, edges.src]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_width_0_equals_zeros(backend: str, gated: bool, dtype: torch.dtype) -> None:
    """Logits of gate and bias alone: as with queries, keys and values of zeros."""
    problem = Problem((61, 1500, 4, 16, 2, 16, 16), dtype)
    inputs = [problem.x, problem.w_x, problem.bias, *([problem.edge_logit] if gated else [])]
    gate = problem.edge_logit if gated else None
    found = []
    for width in (0, 1):
        zeros = torch.zeros(61, 4, width, dtype=dtype)
        with use_backend(backend):  # type: ignore[arg-type]
            out, dx = neighbor_attention(
                zeros, zeros, zeros, problem.x, problem.edges, problem.w_x,
                gate=gate, beta=0.7, bias=problem.bias,
            )  # fmt: skip
        assert out.shape == (61, 4, width)
        assert (out == 0).all()
        assert dx.abs().max() > 0.1
        found.append([dx.detach(), *torch.autograd.grad(dx.square().sum(), inputs)])
    for without, zero in zip(*found, strict=True):
        assert float((without - zero).abs().max()) <= 1e-6 * float(zero.abs().max())


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_of_width_0_match_finite_differences(backend: str) -> None:
    problem = Problem((9, 193, 4, 32, 2, 128, 64))
    empty = torch.empty(9, 4, 0, dtype=torch.float64, requires_grad=True)

    def step(
        x: torch.Tensor, w_x: torch.Tensor, gate: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        return neighbor_attention(empty, empty, empty, x, problem.edges, w_x, gate=gate, bias=bias)[
            1
        ]

    inputs = (problem.x, problem.w_x, problem.edge_logit, problem.bias)
    with use_backend(backend):  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(step, inputs, fast_mode=True)
        for gradient in torch.autograd.grad(step(*inputs).sum(), [empty]):
            assert gradient.shape == empty.shape


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
    empty = problem.q[..., :0].detach()
    for gamma in (0.0, 1e4):  # of many heads one neighbour, the nearest, is left
        with use_backend(backend):  # type: ignore[arg-type]
            out, dx = neighbor_attention(
                empty, empty, empty, problem.x, problem.edges, problem.w_x,
                gamma=torch.full((4,), gamma),
            )  # fmt: skip
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
