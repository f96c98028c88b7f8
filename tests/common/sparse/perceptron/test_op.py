"""The perceptron over edges against layers of PyTorch, on every backend."""

from __future__ import annotations

import pytest
import torch
from sparse_problems import BACKENDS, values_and_gradients
from torch import nn

from common.sparse import edge_perceptron, use_backend

# rows, features, hidden, outputs: around the tile of 192 rows and the block of 4,096, and widths
# that are no multiples of anything.
SIZES = [(0, 9, 32, 4), (1, 1, 1, 1), (191, 9, 32, 4), (193, 3, 5, 2), (10_000, 9, 33, 7)]


def weights(size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    rows, features, hidden, outputs = size
    rng = torch.Generator().manual_seed(rows)
    shapes = [(rows, features), (hidden, features), (hidden,), (outputs, hidden)]
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    return [t.to(dtype).requires_grad_() for t in drawn]


def run(backend: str, given: list[torch.Tensor]) -> list[torch.Tensor]:
    with use_backend(backend):  # type: ignore[arg-type]
        return values_and_gradients(lambda: [edge_perceptron(*given)], given)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_values_and_gradients_are_those_of_layers(backend: str, size: tuple[int, ...]) -> None:
    given = weights(size)
    _, features, hidden, outputs = size
    layers = nn.Sequential(
        nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, outputs, bias=False)
    ).double()
    layers.load_state_dict(
        {"0.weight": given[1], "0.bias": given[2], "2.weight": given[3]}, strict=True
    )
    found = run(backend, given)
    x = given[0].detach().requires_grad_()
    wanted = values_and_gradients(lambda: [layers(x)], [x, *layers.parameters()])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_stays_within_its_rounding(backend: str) -> None:
    exact = run(
        "reference", [t.detach().float().double().requires_grad_() for t in weights(SIZES[-1])]
    )
    found = run(backend, weights(SIZES[-1], torch.float32))
    for got, want in zip(found, exact, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).abs().max()) < 5e-6 * float(want.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_match_finite_differences(backend: str) -> None:
    with use_backend(backend):  # type: ignore[arg-type]
        torch.autograd.gradcheck(edge_perceptron, weights((7, 3, 5, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_without_gradient_change_nothing_else(backend: str) -> None:
    given = weights((400, 9, 32, 4))
    with use_backend(backend):  # type: ignore[arg-type]
        edge_perceptron(given[0].detach(), *given[1:]).sum().backward()
        alone = [t.grad for t in given[1:]]
        assert given[0].grad is None
        together = torch.autograd.grad(edge_perceptron(*given).sum(), given[1:])
    torch.testing.assert_close(alone, list(together), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_for_every_thread_count(backend: str) -> None:
    given, before, runs = weights((20_000, 9, 32, 4), torch.float32), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(run(backend, given))
    finally:
        torch.set_num_threads(before)
    if backend == "cpp":  # products of PyTorch are its own affair
        assert all(
            torch.equal(a, b) for found in runs[1:] for a, b in zip(runs[0], found, strict=True)
        )
    torch.testing.assert_close(runs[0], runs[1])


def test_under_autocast_it_is_the_layers() -> None:
    given = weights((50, 9, 32, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = edge_perceptron(*given)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(t.grad is not None for t in given)


def test_half_precision_is_computed_in_float32() -> None:
    given = [t.detach() for t in weights((50, 9, 32, 4), torch.float32)]
    half = [t.bfloat16() for t in given]
    out = edge_perceptron(*half)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, edge_perceptron(*(t.float() for t in half)).bfloat16())


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (0, torch.zeros(5), r"x must have shape \(E, F\)"),
        (1, torch.zeros(4, 8), r"w1 must have shape \(M, F\)"),
        (2, torch.zeros(3), r"b1 must have shape \(M,\)"),
        (3, torch.zeros(2, 3), r"w2 must have shape \(H, M\)"),
        (3, torch.zeros(4, 32).double(), "w2 must have the dtype and device of x"),
    ],
)
def test_what_does_not_fit_is_refused(place: int, value: torch.Tensor, named: str) -> None:
    given = [t.detach() for t in weights((50, 9, 32, 4), torch.float32)]
    given[place] = value
    with pytest.raises(ValueError, match=named):
        edge_perceptron(*given)
