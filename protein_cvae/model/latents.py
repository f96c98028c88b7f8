"""The two latents and their Gaussians.

z_global (B, G) is one vector per conformer.  z_local has three parts per residue: ``shift``, the
displacement of CA from the template in the frame of the template's residue (Å), ``turn``, the
rotation of the residue's frame there (axis-angle, radians), and ``detail``, the rest.  All are
exactly invariant to rotation and translation of the conformer and of the template.  Where no
template is given shift and turn do not exist: they are 0 and have no KL.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Latents:
    """Values of the latents of B conformers.

    Attributes:
        z_global: (B, G).
        shift: (B, L, 3), Å, in the frames of the template.
        turn: (B, L, 3), radians, in the frames of the template.
        detail: (B, L, D).
    """

    z_global: Tensor
    shift: Tensor
    turn: Tensor
    detail: Tensor

    @property
    def z_local(self) -> Tensor:
        """(B, L, 6 + D), as it is written to disk."""
        return torch.cat([self.shift, self.turn, self.detail], dim=-1)


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
