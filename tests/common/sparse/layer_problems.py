"""Graphs and comparisons that the tests of the layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NODES, FEATURES, EDGE_FEATURES = 23, 7, 5


def messy_edges(sources: int = NODES, destinations: int = NODES, count: int = 150) -> Tensor:
    """(2, E) in no order: edges given twice and three times, self-loops, nodes without edges."""
    rng = torch.Generator().manual_seed(sources + destinations)
    src = torch.randint(0, sources - 2, (count,), generator=rng)
    dst = torch.randint(0, destinations - 3, (count,), generator=rng)
    index = torch.stack([src, dst])
    index[:, 1] = index[:, 0]
    index[:, 2] = index[:, 0]
    index[:, 3] = 4
    return index


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=rng, dtype=dtype)


def results_and_gradients(
    layer: nn.Module, inputs: Sequence[Any], seed: int | None = None, **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Floating results of a call; gradients, in inputs and weights, of a fixed product with them.

    Floating tensors among ``inputs``, also in tuples, are differentiated.  ``seed`` is torch's.
    """
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(leaf(item) for item in value)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    arguments = [leaf(value) for value in inputs]
    if seed is not None:
        torch.manual_seed(seed)
    results = floating(layer(*arguments, **options))
    total = sum((r * draw(*r.shape, seed=n, dtype=r.dtype)).sum() for n, r in enumerate(results))
    assert isinstance(total, Tensor)
    wanted = [*leaves, *layer.parameters()]
    grads = torch.autograd.grad(total, wanted, allow_unused=True)
    return [r.detach() for r in results], [
        torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=True)
    ]


def floating(result: Any) -> list[Tensor]:
    """The floating tensors of a result, in order."""
    if isinstance(result, tuple):
        return [tensor for item in result for tensor in floating(item)]
    return [result] if isinstance(result, Tensor) and result.is_floating_point() else []


def assert_same(got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of the largest entry of each tensor, or of 1 where that is larger."""
    assert len(got) == len(want)
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        g, w = g.detach(), w.detach()
        assert g.shape == w.shape, n
        assert g.dtype == w.dtype, n
        scale = max(float(w.abs().max()), 1.0) if w.numel() else 1.0
        error = float((g - w).abs().max()) if w.numel() else 0.0
        assert error <= tolerance * scale, (n, error, scale)
