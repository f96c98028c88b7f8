"""Batched superposition of point sets in D = 2 or 3 (or any D): Kabsch and similarity Procrustes.

Finds, for each pair of point sets x_n (mobile) and y_n (target) with weights w_n ≥ 0,

    min over R, s, t of  Σ_n w_n |s R x_n + t − y_n|²,      R Rᵀ = 1,  det R = 1 unless reflections
                                                            are allowed,  s = 1 unless scaled.

With centred sets and H = Σ_n w_n y_n x_nᵀ = U Σ Vᵀ:  R = U S Vᵀ, S = diag(1, ..., 1, ±1),
s = tr(S Σ) / Σ_n w_n |x_n|²  (Kabsch 1976; Umeyama 1991, eqs. 40-43).

The gradient of R is taken directly, not through the SVD.  With P = V S Σ Vᵀ (so H = R P) and
A = Rᵀ dR antisymmetric, Rᵀ dH − dHᵀ R = A P + P A, hence in the basis V
A_ij = (Rᵀ dH − dHᵀ R)_ij / (p_i + p_j).  It is finite wherever R is unique, also at equal singular
values, where the derivatives of U and V are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.errors import UserError


@dataclass(frozen=True)
class Alignment:
    """The map x -> scale * rotation x + translation, one per batch entry.

    Attributes:
        rotation: (..., D, D), orthogonal; a reflection has determinant -1.
        translation: (..., D).
        scale: (...), 1 where no scale was fitted.
    """

    rotation: Tensor
    translation: Tensor
    scale: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Move points (..., N, D) -> (..., N, D); any N."""
        with torch.autocast(points.device.type, enabled=False):
            turned = points @ self.rotation.mT
            return self.scale[..., None, None] * turned + self.translation[..., None, :]


def align(
    mobile: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: bool = False,
    reflection: bool = False,
) -> Alignment:
    """The best superposition of ``mobile`` on ``target``; differentiable in both and in weights.

    Args:
        mobile: (..., N, D) floating point.
        target: (..., N, D), same type.
        weights: (..., N), not negative, or bool as a mask; entries of weight 0 may hold anything.
        scale: also fit a scale (similarity Procrustes).
        reflection: allow determinant -1 where it fits better.

    Returns:
        An :class:`Alignment`.  Where the best rotation is not unique (one point, points on a line
        in 3D, a mirror image of a symmetric set) it is one of the best, and the undetermined part
        of its gradient is 0.  Where all mobile points coincide the scale is 1.

    Raises:
        ValueError: on differing shapes, negative weights, a set without weight, or values that
            are not finite where the weight is positive.
    """
    # Autocast would make half-precision matrices, which have no SVD, of float32 points.
    with torch.autocast(mobile.device.type, enabled=False):
        return _align(mobile, target, _check(mobile, target, weights), scale, reflection)


def _align(
    mobile: Tensor, target: Tensor, weights: Tensor, scale: bool, reflection: bool
) -> Alignment:
    used = (weights > 0)[..., None]
    mobile = torch.where(used, mobile, torch.zeros((), dtype=mobile.dtype, device=mobile.device))
    target = torch.where(used, target, torch.zeros((), dtype=target.dtype, device=target.device))
    _check_finite("mobile", mobile)
    _check_finite("target", target)

    share = (weights / weights.sum(-1, keepdim=True))[..., None]  # (..., N, 1)
    mobile_mean = (share * mobile).sum(-2)  # (..., D)
    target_mean = (share * target).sum(-2)
    rounding = 4 * torch.finfo(mobile.dtype).eps * mobile.detach().abs().amax((-2, -1))  # (...)
    mobile = mobile - mobile_mean[..., None, :]
    target = target - target_mean[..., None, :]
    covariance = (share * target).mT @ mobile  # (..., D, D), H / Σ w
    rotation: Tensor = _NearestRotation.apply(covariance, reflection)

    factor = torch.ones_like(mobile_mean[..., 0])
    if scale:
        variance = (share * mobile.square()).sum((-2, -1))
        point = variance <= rounding.square()  # coincident but for the rounding of the mean
        fitted = (rotation * covariance).sum((-2, -1)) / variance.masked_fill(point, 1.0)
        factor = torch.where(point, factor, fitted)
    moved_mean = factor[..., None] * (rotation @ mobile_mean[..., None])[..., 0]
    return Alignment(rotation, target_mean - moved_mean, factor)


def aligned_rmsd(
    mobile: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: bool = False,
    reflection: bool = False,
) -> Tensor:
    """(...) weighted root mean square distance after :func:`align`; same arguments and errors."""
    fitted = align(mobile, target, weights, scale=scale, reflection=reflection).apply(mobile)
    weights = _check(mobile, target, weights)
    gap = (fitted - target).square().sum(-1)
    gap = torch.where(weights > 0, gap, torch.zeros_like(gap))
    return ((weights * gap).sum(-1) / weights.sum(-1)).sqrt()


class _NearestRotation(torch.autograd.Function):
    """R maximising tr(Rᵀ H): (..., D, D) -> (..., D, D)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, reflection: bool) -> Tensor:
        u, sigma, vh = torch.linalg.svd(matrix)
        sign = torch.ones_like(sigma)
        if not reflection:
            sign[..., -1] = torch.linalg.det(u @ vh).sign()
        rotation = (u * sign[..., None, :]) @ vh
        ctx.save_for_backward(rotation, vh, sign * sigma)
        return rotation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rotation, vh, p = ctx.saved_tensors
        pull = rotation.mT @ grad  # (..., D, D)
        pull = vh @ (pull - pull.mT) @ vh.mT
        sums = p[..., :, None] + p[..., None, :]
        tiny = torch.finfo(p.dtype).eps * p.shape[-1] * p.abs().amax(-1)[..., None, None]
        unique = sums.abs() > tiny
        turn = torch.where(unique, pull / sums.masked_fill(~unique, 1.0), torch.zeros_like(pull))
        return rotation @ vh.mT @ turn @ vh, None


def _check(mobile: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Weights (..., N) in the type of ``mobile``; raises on anything that does not fit."""
    if mobile.shape != target.shape or mobile.dim() < 2 or mobile.shape[-2] == 0:
        raise UserError(
            "mobile and target must share one shape (..., N, D) with N >= 1, got "
            f"{tuple(mobile.shape)} and {tuple(target.shape)}"
        )
    if not mobile.is_floating_point() or mobile.dtype != target.dtype:
        raise UserError(
            f"mobile and target must share one floating type, got {mobile.dtype} and {target.dtype}"
        )
    if weights is None:
        return torch.ones_like(mobile[..., 0])
    if weights.shape != mobile.shape[:-1]:
        raise UserError(
            f"weights must have shape {tuple(mobile.shape[:-1])}, got {tuple(weights.shape)}"
        )
    weights = weights.to(mobile.dtype)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise UserError("weights must be finite and not negative")
    if not bool((weights.sum(-1) > 0).all()):
        raise UserError("weights leave a point set without any point")
    return weights


def _check_finite(name: str, points: Tensor) -> None:
    if not bool(points.isfinite().all()):
        raise UserError(f"{name} holds NaN or infinite coordinates; mask them with weights")
