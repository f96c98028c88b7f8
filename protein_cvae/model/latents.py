"""The two latents and their Gaussians.

With a template, z_global (B, G) holds the coefficients of a conformer's motion along the softest
modes of the template, in standard deviations of its elastic network, and z_local what remains at
each residue: ``shift``, Å, and ``turn``, axis-angle in radians, both in the frames of the template
(:mod:`protein_cvae.model.channel`).  ``level`` is the noise they carry.  All are exactly invariant
to rotation and translation of the conformer and of the template.  Where no template is given
z_global is G free numbers; shift and turn do not exist: they are 0 and have no KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

# Start of log σ² of every learned head.
INITIAL_LOG_VAR = -2.0
# Bounds of log σ²: e^-12 Å² is below the rounding of a PDB file, e^4 above any prior.
_LOG_VAR_RANGE = (-12.0, 4.0)


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: ``mean`` (..., D) and ``log_var`` (..., D)."""

    mean: Tensor
    log_var: Tensor

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """mean + temperature · σ · noise, noise (..., D) standard normal (reparameterised)."""
        return self.mean + temperature * (0.5 * self.log_var).exp() * noise

    def kl(self, prior: Gaussian) -> Tensor:
        """KL(self ‖ prior) of each dimension (..., D), nats."""
        return gaussian_kl(self.mean, self.log_var, prior.mean, prior.log_var)


@dataclass(frozen=True)
class Latents:
    """Values of the latents of B conformers.

    Attributes:
        z_global: (B, G).
        shift: (B, L, 3), Å, in the frames of the template.
        turn: (B, L, 3), radians, in the frames of the template.
        level: (B, 2), Å, noise of z_global and of z_local.
    """

    z_global: Tensor
    shift: Tensor
    turn: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.z_global)

    def map(self, change: Callable[..., Tensor], *others: Latents) -> Latents:
        """``change`` of each part, and of the same part of ``others``."""
        each = (self, *others)
        return Latents(*(change(*(getattr(z, f.name) for z in each)) for f in fields(Latents)))

    def split(self, size: int) -> Iterator[Latents]:
        """Up to ``size`` conformers at a time."""
        names = [f.name for f in fields(Latents)]
        for parts in zip(*(getattr(self, name).split(size) for name in names), strict=True):
            yield Latents(*parts)

    def repeat(self, count: int) -> Latents:
        """All conformers ``count`` times (copies)."""
        return self.map(lambda x: x.repeat(count, *[1] * (x.dim() - 1)))

    @staticmethod
    def cat(parts: Sequence[Latents]) -> Latents:
        """Those of all parts, one behind the other."""
        return parts[0].map(lambda *x: torch.cat(x), *parts[1:])

    @property
    def z_local(self) -> Tensor:
        """(B, L, 6), as it is written to disk."""
        return torch.cat([self.shift, self.turn], dim=-1)


class GaussianHead(nn.Module):
    """A perceptron that gives mean and log σ²; log σ² starts at :data:`INITIAL_LOG_VAR`.

    Args:
        d_in: width of the input.
        d_hidden: width of the hidden layer.
        d_out: dimensions of the Gaussian.
        log_var: start of log σ².
    """

    def __init__(
        self, d_in: int, d_hidden: int, d_out: int, log_var: float = INITIAL_LOG_VAR
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU())
        self.mean = nn.Linear(d_hidden, d_out)
        self.log_var = nn.Linear(d_hidden, d_out)
        nn.init.zeros_(self.log_var.weight)
        nn.init.constant_(self.log_var.bias, log_var)

    def forward(self, x: Tensor) -> Gaussian:
        """(..., d_in) -> mean and log σ², both (..., d_out)."""
        hidden = self.net(x)
        return Gaussian(self.mean(hidden), bounded(self.log_var(hidden)))


def bounded(log_var: Tensor) -> Tensor:
    """log σ² bent smoothly into its range, almost unchanged between -9 and 1."""
    low, high = _LOG_VAR_RANGE
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * ((log_var - middle) / half).tanh()


def gaussian_kl(mean: Tensor, log_var: Tensor, prior_mean: Tensor, prior_log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) ‖ N(prior_mean, e^prior_log_var)) of each dimension, nats.

    Kingma and Welling (2014), appendix B, with a learned prior.
    """
    gap = (mean - prior_mean).square() * (-prior_log_var).exp()
    ratio = log_var - prior_log_var
    return 0.5 * (ratio.exp() + gap - 1 - ratio)
