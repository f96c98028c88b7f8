"""Linear algebra of the constraints: J m, Jᵀ λ and the solution of (J Jᵀ + ε) λ = b.

J has seven rows for each residue i, each over the five atoms N, CA, C of i and N, CA of i + 1, so
it is kept as rows (B, L, 7, 15) and never as a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from protein_cvae.geometry.constraint_rows import UNIT


def scaled(rows: Tensor, violation: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, L, 7, 15) of unit length and violations (B, L, 7) to match; 0 where not used."""
    weight = used / (rows.square().sum((-2, -1)) + 1e-4).sqrt()
    return (rows * weight[..., None, None]).flatten(-2), weight * violation


def solve(rows: Tensor, error: Tensor, steps: int, ridge: float) -> Tensor:
    """λ of (J Jᵀ + ε) λ = error by conjugate gradients, each conformer for itself: (B, L, 7)."""
    tiny = torch.finfo(error.dtype).eps ** 2  # below it a conformer has no error left
    multiplier = torch.zeros_like(error)
    residual = direction = error
    square = residual.square().sum((-2, -1), keepdim=True)
    for _ in range(steps):
        image = apply(rows, apply_transpose(rows, direction)) + ridge * direction
        length = square / ((direction * image).sum((-2, -1), keepdim=True) + tiny)
        multiplier = multiplier + length * direction
        residual = residual - length * image
        last, square = square, residual.square().sum((-2, -1), keepdim=True)
        direction = residual + square / (last + tiny) * direction
    return multiplier


def apply_transpose(rows: Tensor, multiplier: Tensor) -> Tensor:
    """Jᵀ λ: (B, L, 7, 15), (B, L, 7) -> moves of atoms (B, L, 3, 3)."""
    move = (multiplier[..., None, :] @ rows)[..., 0, :].unflatten(-1, (UNIT, 3))
    onto_next = torch.nn.functional.pad(move[:, :-1, 3:], (0, 0, 0, 1, 1, 0))
    return move[:, :, :3] + onto_next


def apply(rows: Tensor, move: Tensor) -> Tensor:
    """J m: (B, L, 7, 15), (B, L, 3, 3) -> (B, L, 7)."""
    follower = torch.nn.functional.pad(move[:, 1:, :2], (0, 0, 0, 0, 0, 1))
    unit = torch.cat([move, follower], dim=-2).flatten(-2)
    return (rows @ unit[..., None])[..., 0]
