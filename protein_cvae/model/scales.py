"""The prior of the motion along each mode: mixtures of scales with one amplitude.

Equations: :mod:`protein_cvae.model.channel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from protein_cvae.model.elastic import AMPLITUDE

AMPLITUDE_RANGE = 6.0
"""Amplitudes lie within ± this."""
_COARSE, _SECTIONS = 25, 24


@dataclass(frozen=True)
class Scales:
    """Mixtures of zero-mean normals of n coefficients.

    Attributes:
        variance: (B, n, M) Å²; 0 where there is no coefficient.
        log_weight: (B, n, M).
    """

    variance: Tensor
    log_weight: Tensor

    def at(self, a: Tensor) -> Scales:
        """At amplitudes a (B,)."""
        return Scales(self.variance * (2 * AMPLITUDE * a).exp()[:, None, None], self.log_weight)

    def log_density(self, z: Tensor, noise: Tensor) -> Tensor:
        """(B, n) log density of z (B, n) Å, seen through noise of variance (B, n)."""
        return self._joint(z, noise).logsumexp(-1)

    def mean(self, z: Tensor, noise: Tensor) -> Tensor:
        """(B, n) Å, of what is seen as z through noise; 0 where there is no coefficient."""
        share = self._joint(z, noise).softmax(-1)
        return (share * self.variance / (self.variance + noise[..., None])).sum(-1) * z

    def _joint(self, z: Tensor, noise: Tensor) -> Tensor:
        total = self.variance + noise[..., None]
        normal = -0.5 * (z.square()[..., None] / total + (2 * math.pi * total).log())
        return self.log_weight + normal


@torch.no_grad()
def most_probable_amplitude(
    z: Tensor,
    scales: Scales,
    noise: Tensor,
    middle: Tensor | float = 0.0,
    log_width: Tensor | float = 0.0,
) -> Tensor:
    """(B,) the a of largest Σ_k log p(z_k | a) + log N(a; α, β²): a grid, then golden sections.

    Args:
        z: (B, n) coefficients, Å.
        scales: of their prior at a = 0; where the variance is 0 a coefficient does not count.
        noise: (B, n) Å².
        middle, log_width: α_L, (B,) or one for all, and log β.
    """
    dtype, precision = z.dtype, math.exp(-float(log_width))
    z, noise = z.double(), noise.double()
    scales = Scales(scales.variance.double(), scales.log_weight.double())
    there = scales.variance[..., 0] > 0

    def cost(a: Tensor) -> Tensor:  # (B,)
        density = scales.at(a).log_density(z, noise)
        own = 0.5 * ((a - middle) * precision).square()
        return own - torch.where(there, density, 0.0).sum(1)

    grid = torch.linspace(-AMPLITUDE_RANGE, AMPLITUDE_RANGE, _COARSE).tolist()
    costs = torch.stack([cost(torch.full_like(z[:, 0], a)) for a in grid])
    best = z.new_tensor(grid)[costs.argmin(0)]
    step = 2 * AMPLITUDE_RANGE / (_COARSE - 1)
    low, high = best - step, best + step
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(_SECTIONS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        falling = cost(left) > cost(right)
        low, high = torch.where(falling, left, low), torch.where(falling, high, right)
    return ((low + high) / 2).to(dtype)
