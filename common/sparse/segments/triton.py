"""``spmm`` and ``edge_log_softmax`` of the Triton backend, with their gradients and fake shapes.

Registered with ``torch.library`` as ``edgewise::triton_*``.  The kernels:
:mod:`common.sparse.segments.triton_kernels`.  Importing this module does not import Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.registration import Grads, like, reverse_if_needed, save_inputs
from common.sparse.tiles import accumulator, on_device, power_of_two, triton_type

TILE = 1024  # elements of a (slots, columns) array of a one-warp program
COLUMNS = 256  # of a program; further ones go to other programs
DOT_WARPS = 4


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R), as the plain form."""
    reverse = reverse_if_needed(edges, dense)
    return product(weight, edges.src, edges.dst, edges.ptr, *reverse, dense)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """(E,) or (E, H), as the plain form."""
    return log_softmax(logits, edges.ptr)


@torch.library.custom_op(
    "edgewise::triton_gather_sum",
    mutates_args=(),
    schema="(Tensor ptr, Tensor? order, Tensor col, Tensor weight, Tensor dense) -> Tensor",
)
def gather_sum(
    ptr: Tensor, order: Tensor | None, col: Tensor, weight: Tensor, dense: Tensor
) -> Tensor:
    """(N, R) sums over the entries of each row; ``col`` and ``weight`` (E,) in order of edges."""
    from common.sparse.segments import triton_kernels as kernels

    weight, dense = weight.contiguous(), dense.contiguous()
    rows, width = len(ptr) - 1, dense.shape[1]
    out = dense.new_empty(rows, width)
    if out.numel():
        slots, columns = _tile(width, len(col), rows)
        with on_device(dense):
            kernels.gather_sum[(rows, -(-width // columns))](
                *(ptr, col if order is None else order, col, weight, dense, out),
                *(width, slots, columns, order is not None, triton_type(accumulator(dense))),
                num_warps=1,
            )
    return out


@gather_sum.register_fake
def _(ptr: Tensor, order: Tensor | None, col: Tensor, weight: Tensor, dense: Tensor) -> Tensor:
    return dense.new_empty(len(ptr) - 1, dense.shape[1])


@torch.library.custom_op(
    "edgewise::triton_gather_dot",
    mutates_args=(),
    schema="(Tensor row, Tensor col, Tensor a, Tensor b) -> Tensor",
)
def gather_dot(row: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(E,) products of the rows ``a[row_e]`` and ``b[col_e]``, both (N, R)."""
    from common.sparse.segments import triton_kernels as kernels

    a, b = a.contiguous(), b.contiguous()
    width = a.shape[1]
    out = a.new_empty(len(row))
    if out.numel():
        slots, columns = _tile(width, DOT_WARPS * TILE, 1)
        block = DOT_WARPS * slots
        with on_device(a):
            kernels.gather_dot[(-(-len(row) // block),)](
                *(row, col, a, b, out, len(row)),
                *(width, block, columns, triton_type(accumulator(a))),
                num_warps=DOT_WARPS,
            )
    return out


@gather_dot.register_fake
def _(row: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(len(row))


@torch.library.custom_op(
    "edgewise::triton_spmm",
    mutates_args=(),
    schema=(
        "(Tensor weight, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, Tensor rev_edge, "
        "Tensor dense) -> Tensor"
    ),
)
def product(*operands: Tensor) -> Tensor:
    weight, src, _dst, ptr, _rev_ptr, _rev_edge, dense = operands
    return gather_sum(ptr, None, src, weight, dense)


@product.register_fake
def _(weight: Tensor, src: Tensor, dst: Tensor, ptr: Tensor, *rest: Tensor) -> Tensor:
    return rest[-1].new_empty(len(ptr) - 1, rest[-1].shape[1])


def _product_backward(ctx: Any, grad: Tensor) -> Grads:
    weight, src, dst, _, rev_ptr, rev_edge, dense = ctx.saved_tensors
    dweight = ddense = None
    if ctx.needs_input_grad[0]:
        dweight = gather_dot(dst, src, grad, dense)
    if ctx.needs_input_grad[6]:
        ddense = gather_sum(rev_ptr, rev_edge, dst, weight, grad)
    return dweight, None, None, None, None, None, ddense


product.register_autograd(_product_backward, setup_context=save_inputs)


@torch.library.custom_op(
    "edgewise::triton_log_softmax", mutates_args=(), schema="(Tensor logits, Tensor ptr) -> Tensor"
)
def log_softmax(logits: Tensor, ptr: Tensor) -> Tensor:
    """(E,) or (E, H): logarithm of the softmax over the entries of each row."""
    return _over_rows("log_softmax", [logits.contiguous()], ptr)


@torch.library.custom_op(
    "edgewise::triton_log_softmax_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor log_weight, Tensor ptr) -> Tensor",
)
def log_softmax_backward(grad: Tensor, log_weight: Tensor, ptr: Tensor) -> Tensor:
    return _over_rows("log_softmax_grad", [grad.contiguous(), log_weight], ptr)


def _over_rows(kernel: str, inputs: list[Tensor], ptr: Tensor) -> Tensor:
    from common.sparse.segments import triton_kernels as kernels

    out = torch.empty_like(inputs[0])
    if out.numel():
        heads = out.numel() // len(out)
        slots, columns = _tile(heads, len(out), len(ptr) - 1)
        with on_device(out):
            getattr(kernels, kernel)[(len(ptr) - 1, -(-heads // columns))](
                *(*inputs, ptr, out, heads, slots, columns, triton_type(accumulator(out))),
                num_warps=1,
            )
    return out


log_softmax.register_fake(like)
log_softmax_backward.register_fake(like)


def _log_softmax_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _log_softmax_backward(ctx: Any, grad: Tensor) -> Grads:
    return log_softmax_backward(grad, *ctx.saved_tensors), None


log_softmax.register_autograd(_log_softmax_backward, setup_context=_log_softmax_setup)


def _tile(width: int, entries: int, rows: int) -> tuple[int, int]:
    """Slots and columns of a program, powers of two; no more slots than rows are long."""
    columns = min(power_of_two(width), COLUMNS)
    slots = min(TILE // columns, power_of_two(entries // max(rows, 1)), 64)
    return max(slots, 1), columns
