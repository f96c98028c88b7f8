"""Products at edges and weighted sums over in-edges, for several heads: checks and forms.

With e = (j, i), for node rows or for rows of the edges themselves::

    edge_dot(a, b)_eh = a_ih . b_jh            edge_dot(a, values)_eh = a_ih . values_e
    weighted_sum(w, b)_ih = sum_e w_eh b_jh    weighted_sum(w, values)_ih = sum_e w_eh values_e

The two with values at edges are those with edge e as its own source: one row (F,), which all heads
share.  Each is the gradient of another, so that two primitives of the kernels do all the work, head
by head, and no array of E x H x D is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList
from common.sparse.backends import Backend, Form, form_for
from common.sparse.checks import at_least_float32, check_dtypes, check_shape
from common.sparse.segments import blockwise, reference, triton


class Primitives(NamedTuple):
    """What a backend brings; ``order`` lists the entries of the rows, None: as they stand."""

    # (ptr, order or None, col (E,), weight (E,), dense (M, R)) -> (rows, R)
    row_sum: Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], Tensor]
    # (row (E,), col (E,), a (N, R), b (M, R)) -> (E,)
    row_dot: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Ends(NamedTuple):
    """Where the rows of the second operand stand: at sources, or at the edges."""

    dst: Tensor  # (E,)
    ptr: Tensor  # (N + 1,)
    col: Tensor  # (E,) row of the second operand
    rev_ptr: Tensor  # (M + 1,) edges of each of its rows
    rev_order: Tensor  # (E,)


def edge_dot(a: Tensor, b: Tensor, edges: EdgeList) -> Tensor:
    """(E, H) products of the rows at both ends of every edge, or at its end and at itself.

    Args:
        a: (N, H, D) float, read at destinations.
        b: (N, H, D), read at sources; or (E, D), a row for each edge, shared by the heads.
        edges: E edges over N nodes.

    Returns:
        (E, H) in float32 or wider.  Differentiable once in both.

    Raises:
        ValueError: on a shape that does not fit, or on mixed types or devices.
    """
    check_shape("a", a, (edges.num_nodes, None, None), "(N, H, D)")
    _check_rows("b", b, edges, a.shape[1], a.shape[2])
    a, b = at_least_float32(a, b)
    check_dtypes(edges, a=a, b=b)
    return form_for(DOT, a).run(a, b, edges)


def weighted_sum(weight: Tensor, edges: EdgeList, rows: Tensor) -> Tensor:
    """(N, H, D) sums over in-edges of the rows at their sources, or at the edges.

    Args:
        weight: (E, H) float.
        edges: E edges over N nodes.
        rows: (N, H, D), read at sources; or (E, D), a row for each edge, shared by the heads.

    Returns:
        (N, H, D) in float32 or wider; rows without edges are zero.  Differentiable once in both.

    Raises:
        ValueError: on a shape that does not fit, or on mixed types or devices.
    """
    check_shape("weight", weight, (edges.num_edges, None), "(E, H)")
    _check_rows("rows", rows, edges, weight.shape[1], rows.shape[-1])
    weight, rows = at_least_float32(weight, rows)
    check_dtypes(edges, weight=weight, rows=rows)
    return form_for(SUM, rows).run(weight, rows, edges)


def _check_rows(name: str, rows: Tensor, edges: EdgeList, heads: int, width: int) -> None:
    if rows.dim() == 2:
        check_shape(name, rows, (edges.num_edges, width), "(E, D)")
    else:
        check_shape(name, rows, (edges.num_nodes, heads, width), "(N, H, D)")


def _ends(edges: EdgeList, rows: Tensor, *, gradient: bool) -> Ends:
    """``gradient``: whether the reverse lists will be read."""
    if rows.dim() == 2:
        each = torch.arange(edges.num_edges + 1, device=edges.src.device)
        col = each[:-1].to(edges.src.dtype)
        return Ends(edges.dst, edges.ptr, col, each, col)
    reverse = edges.by_source if gradient else (edges.ptr, edges.src)
    return Ends(edges.dst, edges.ptr, edges.src, *reverse)


def _head(rows: Tensor, h: int) -> Tensor:
    return rows if rows.dim() == 2 else rows[:, h]


def _dots(kernels: Primitives, ends: Ends, a: Tensor, b: Tensor) -> Tensor:
    return torch.stack(
        [kernels.row_dot(ends.dst, ends.col, a[:, h], _head(b, h)) for h in range(a.shape[1])], 1
    )


def _sums(kernels: Primitives, ends: Ends, weight: Tensor, rows: Tensor) -> Tensor:
    return torch.stack(
        [
            kernels.row_sum(ends.ptr, None, ends.col, weight[:, h], _head(rows, h))
            for h in range(weight.shape[1])
        ],
        1,
    )


def _reverse_sums(
    kernels: Primitives, ends: Ends, weight: Tensor, a: Tensor, shared: bool
) -> Tensor:
    """Gradient of the second operand: sums of (N, H, D) rows over the edges of each of its own."""
    heads = [
        kernels.row_sum(ends.rev_ptr, ends.rev_order, ends.dst, weight[:, h], a[:, h])
        for h in range(a.shape[1])
    ]
    return torch.stack(heads).sum(0) if shared else torch.stack(heads, 1)


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Primitives, ends: Ends, a: Tensor, b: Tensor) -> Tensor:
        ctx.kernels, ctx.ends = kernels, ends
        ctx.save_for_backward(a, b)
        return _dots(kernels, ends, a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        a, b = ctx.saved_tensors
        da = _sums(ctx.kernels, ctx.ends, grad, b) if ctx.needs_input_grad[2] else None
        db = None
        if ctx.needs_input_grad[3]:
            db = _reverse_sums(ctx.kernels, ctx.ends, grad, a, b.dim() == 2)
        return None, None, da, db


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Primitives, ends: Ends, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.kernels, ctx.ends = kernels, ends
        ctx.save_for_backward(weight, rows)
        return _sums(kernels, ends, weight, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, rows = ctx.saved_tensors
        dweight = _dots(ctx.kernels, ctx.ends, grad, rows) if ctx.needs_input_grad[2] else None
        drows = None
        if ctx.needs_input_grad[3]:
            drows = _reverse_sums(ctx.kernels, ctx.ends, weight, grad, rows.dim() == 2)
        return None, None, dweight, drows


def _fast_dot(kernels: Primitives, a: Tensor, b: Tensor, edges: EdgeList) -> Tensor:
    gradient = torch.is_grad_enabled() and b.requires_grad
    return _Dot.apply(kernels, _ends(edges, b, gradient=gradient), a, b)


def _fast_sum(kernels: Primitives, weight: Tensor, rows: Tensor, edges: EdgeList) -> Tensor:
    gradient = torch.is_grad_enabled() and rows.requires_grad
    return _Sum.apply(kernels, _ends(edges, rows, gradient=gradient), weight, rows)


def _compiled_sum(
    ptr: Tensor, order: Tensor | None, col: Tensor, weight: Tensor, dense: Tensor
) -> Tensor:
    return torch.ops.edgewise.gather_sum(ptr, order, col, weight, dense)


def _compiled_dot(row: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.edgewise.gather_dot(row, col, a, b)


BLOCKWISE = Primitives(blockwise.row_sum, blockwise.row_dot)
COMPILED = Primitives(_compiled_sum, _compiled_dot)
TRITON = Primitives(triton.gather_sum, triton.gather_dot)
DOT: dict[Backend, Form] = {
    "reference": Form(reference.edge_dot),
    "torch": Form(partial(_fast_dot, BLOCKWISE)),
    "cpp": Form(partial(_fast_dot, COMPILED)),
    "triton": Form(partial(_fast_dot, TRITON)),
}
SUM: dict[Backend, Form] = {
    "reference": Form(reference.weighted_sum),
    "torch": Form(partial(_fast_sum, BLOCKWISE)),
    "cpp": Form(partial(_fast_sum, COMPILED)),
    "triton": Form(partial(_fast_sum, TRITON)),
}
