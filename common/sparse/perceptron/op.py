"""The perceptron over edges: checks and the choice of a form."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from common.sparse.backends import Backend, Form, form_for
from common.sparse.checks import at_least_float32, check_shape
from common.sparse.perceptron import blockwise, compiled, reference

FORMS: dict[Backend, Form] = {
    "reference": Form(reference.edge_perceptron),
    "torch": Form(blockwise.edge_perceptron),
    "cpp": Form(compiled.edge_perceptron),
    "triton": Form(reference.edge_perceptron),  # its matrix products are CUDA's own
}


def edge_perceptron(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    """``gelu(x W1^T + b1) W2^T`` over the features of every edge, GELU with the error function.

    For narrow layers over many rows: no array of E x M is kept.

    Args:
        x: (E, F) float.
        w1: (M, F), as ``nn.Linear`` holds it; b1 (M,); w2 (H, M).

    Returns:
        (E, H) in the dtype of x, computed in float32 or wider; under autocast in its dtype, as
        linear layers do.  Differentiable once in every tensor.

    Raises:
        ValueError: on a shape or a dtype that does not fit.
    """
    check_shape("x", x, (None, None), "(E, F)")
    check_shape("w1", w1, (None, x.shape[1]), "(M, F)")
    check_shape("b1", b1, (w1.shape[0],), "(M,)")
    check_shape("w2", w2, (None, w1.shape[0]), "(H, M)")
    if torch.is_autocast_enabled(x.device.type):
        return reference.edge_perceptron(x, w1, b1, w2)
    kind = x.dtype
    given = at_least_float32(x, w1, b1, w2)
    for name, tensor in zip(("w1", "b1", "w2"), given[1:], strict=True):
        if tensor.dtype != given[0].dtype or tensor.device != x.device:
            raise UserError(
                f"{name} must have the dtype and device of x, {x.dtype} on {x.device}, got "
                f"{tensor.dtype} on {tensor.device}"
            )
    found: Tensor = form_for(FORMS, given[0]).run(*given)
    return found.to(kind)
