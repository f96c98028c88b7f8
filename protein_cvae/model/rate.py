"""How much noise the latents carry, and what of it the losses and the decoder know."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from common.rng import uniform_of_normal

CLEAN, SILENT = 0.02, 30.0
"""Noise in Å of latents that are taken as they are, and of latents that hold nothing."""
GENERATED = 0.1
"""Å, noise of draws from the prior: the decoder repairs about as much."""
# Å, noise at which the errors of an item count half.
_LITTLE = 0.2


@dataclass(frozen=True)
class RateSettings:
    """Noise of the latents in training, Å (:mod:`protein_cvae.model.channel`).

    Attributes:
        low, high: s of z_global and s of z_local are log-uniform between these.
        silent: share of conformers whose z_local holds nothing.
        judged: of validation, both latents.

    Raises:
        ValueError: on limits that are not 0 < low <= high, or a share outside [0, 1].
    """

    low: float = 0.02
    high: float = 1.5
    silent: float = 0.15
    judged: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= SILENT:
            raise UserError(
                f"rate.low and rate.high must be 0 < low <= high <= {SILENT} Å, got {self.low} and "
                f"{self.high}"
            )
        if not 0 <= self.silent <= 1:
            raise UserError(f"rate.silent must lie in [0, 1], got {self.silent}")
        if not 0 < self.judged <= SILENT:
            raise UserError(f"rate.judged must lie in (0, {SILENT}] Å, got {self.judged}")


def levels(normal: Tensor, rate: RateSettings) -> Tensor:
    """(B, 2) Å, noise of z_global and z_local, from (B, 3) standard normal numbers."""
    uniform = uniform_of_normal(normal)
    level = rate.low * (rate.high / rate.low) ** uniform[:, :2]
    hidden = torch.full_like(level[:, 1], SILENT)
    local = torch.where(uniform[:, 2] < rate.silent, hidden, level[:, 1])
    return torch.stack([level[:, 0], local], dim=1)


def expected_error(level: Tensor, templated: Tensor) -> Tensor:
    """(B,) weight of an item's errors, which grow with the noise (B, 2): 1 where there is little.

    Of items without template it is 1.
    """
    noise = level.clamp_max(1.0).square().sum(1)
    return torch.where(templated, _LITTLE**2 / (_LITTLE**2 + noise), torch.ones_like(noise))


def left_over(level: Tensor, templated: Tensor) -> Tensor:
    """(B,) how far the decoder may correct a start that noise (B, 2) was removed from.

    s / √(1 + s²) with s² = s_g² + s_l², so that of hardly any noise hardly anything is corrected
    (the output scale of Karras et al. 2022, table 1, for data of 1 Å).  Of items without template
    it is 1.
    """
    square = level.square().sum(1)
    return torch.where(templated, (square / (1 + square)).sqrt(), torch.ones_like(square))
