"""What the operators share of their registration with autograd and of their fake shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList

Grads = tuple[Tensor | None, ...]


def reverse_if_needed(edges: EdgeList, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """The reverse CSR if a gradient will read it, otherwise stand-ins that nothing reads."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return edges.by_source
    return edges.ptr, edges.src


def attach(
    name: str,
    fake: Callable[..., Any],
    backward: Callable[..., Grads] | None = None,
    setup: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
) -> None:
    """Fake shapes, and gradients where given, of an operator of the loaded library."""
    torch.library.register_fake(f"edgewise::{name}", fake)
    if backward is not None:
        torch.library.register_autograd(f"edgewise::{name}", backward, setup_context=setup)


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep all inputs, which are tensors, for backward."""
    ctx.save_for_backward(*inputs)


def like(tensor: Tensor, *_: Any) -> Tensor:
    """A contiguous tensor of the shape, dtype and device of the first argument."""
    return tensor.new_empty(tensor.shape)
