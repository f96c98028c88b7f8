"""The perceptron in plain PyTorch: ``gelu(x W1^T + b1) W2^T``."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def edge_perceptron(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    """(E, H) of x (E, F), w1 (M, F), b1 (M,), w2 (H, M); GELU with the exact error function."""
    return functional.linear(functional.gelu(functional.linear(x, w1, b1)), w2)
