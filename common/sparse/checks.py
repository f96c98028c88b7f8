"""Argument checks of the sparse operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList

_HALF = (torch.float16, torch.bfloat16)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None], axes: str) -> None:
    """Raise ValueError unless ``tensor`` has ``shape``; None allows any size on that axis."""
    fits = tensor.dim() == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("*" if want is None else str(want) for want in shape)
        raise UserError(f"{name} must have shape {axes} = ({expected}), got {tuple(tensor.shape)}")


def check_dtypes(edges: EdgeList, **tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors share one floating dtype and the device of the edges.

    Half precision is computed in float32 and counts as such.
    """
    given = {name: t for name, t in tensors.items() if t is not None}
    first, reference = next(iter(given.items()))
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise UserError(f"{name} must be floating, got {tensor.dtype}")
        if _computed_in(tensor) != _computed_in(reference):
            raise UserError(
                f"{name} must have the dtype of {first}, {reference.dtype}, got {tensor.dtype}"
            )
        if tensor.device != edges.src.device:
            raise UserError(
                f"{name} must be on the device of edges, {edges.src.device}, got {tensor.device}"
            )


def _computed_in(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in _HALF else tensor.dtype


def at_least_float32(*tensors: Any) -> list[Any]:
    """Half-precision tensors in float32, for sums over many edges; others and None as they are."""
    return [t.float() if t is not None and t.dtype in _HALF else t for t in tensors]
