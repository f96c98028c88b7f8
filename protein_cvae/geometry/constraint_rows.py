"""The seven constraints of each residue: how far each is violated, and its derivative.

Unit i holds five atoms, N, CA, C of residue i and N, CA of i + 1.  Its constraints are

    fine:    N–CA, CA–C, C–N;  angles N–CA–C, CA–C–N, C–N–CA;  ω
    coarse:  N–CA, CA–C, C–N;  distances N···C, CA···N, C···CA;  CA···CA

The violation of a value v with band [a, b] is v − min(max(v, a), b): zero inside.  Derivatives are
closed forms; that of a torsion is eq. 27 of Blondel and Karplus (1996), J. Comput. Chem. 17,
1132-1141.  Coarse distances have derivatives everywhere but say nothing of handedness and little of
ω near 180°, where CA···CA is stationary; the fine ones complete them.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from protein_cvae.geometry import constants

ROWS = 7
UNIT = 5  # atoms of a unit

RESTRAINTS = (
    constants.N_CA,
    constants.CA_C,
    constants.C_N,
    constants.N_CA_C,
    constants.CA_C_N,
    constants.C_N_CA,
    constants.OMEGA_TRANS,
)
# Rows of the fine set that need the peptide bond to the next residue.
NEEDS_LINK = (False, False, True, False, True, True, True)

_PAIRS = ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (2, 4), (1, 4))
_ROUND = 1e-12  # Å², under square roots
# Derivatives grow as 1 / length, angles' also as 1 / sine; below these the growth is stopped, so
# that folded-over inputs neither jump nor return infinite gradients.
_LEAST_LENGTH = 0.1  # Å
_LEAST_SINE = 0.2


def fine_rows(units: Tensor, cis: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    """Violations of bonds, angles and ω.

    Args:
        units: (..., L, 5, 3), Å.
        cis: (..., L) bool, ω is to be 0° instead of 180°.
        slack: half width of the bands in standard deviations.

    Returns:
        ``(violation, derivative)``: (..., L, 7) in Å and radians, and (..., L, 7, 5, 3).
    """
    bonds = units[..., 1:, :] - units[..., :-1, :]  # (..., L, 4, 3)
    length = (bonds.square().sum(-1) + _ROUND).sqrt()
    kept_length = length.clamp(min=_LEAST_LENGTH)
    u = bonds / kept_length[..., None]
    back, ahead = -u[..., :-1, :], u[..., 1:, :]  # from the middle atom of each angle
    cosine = (back * ahead).sum(-1)  # (..., L, 3)
    normal = torch.linalg.cross(u[..., :-1, :], u[..., 1:, :])
    sine = (normal.square().sum(-1) + _ROUND).sqrt()
    shrunk = sine.detach().square() + cosine.detach().square() < 0.5
    theta = torch.atan2(sine, torch.where(shrunk, torch.ones_like(cosine), cosine))
    kept_sine = sine.clamp(min=_LEAST_SINE)
    first = (cosine[..., None] * back - ahead) / (kept_sine * kept_length[..., :-1])[..., None]
    last = (cosine[..., None] * ahead - back) / (kept_sine * kept_length[..., 1:])[..., None]
    middle = -(first + last)

    omega = _omega_offset(u, normal, cis)
    l1, l2, l3 = kept_length[..., 1], kept_length[..., 2], kept_length[..., 3]
    d1 = -normal[..., 1, :] / (kept_sine[..., 1].square() * l1)[..., None]
    d4 = normal[..., 2, :] / (kept_sine[..., 2].square() * l3)[..., None]
    shear = (cosine[..., 1] * l1 / l2)[..., None] * d1 - (cosine[..., 2] * l3 / l2)[..., None] * d4
    zero = torch.zeros_like(d1)
    derivative = torch.stack(
        [
            torch.stack([back[..., 0, :], -back[..., 0, :], zero, zero, zero], -2),
            torch.stack([zero, back[..., 1, :], -back[..., 1, :], zero, zero], -2),
            torch.stack([zero, zero, back[..., 2, :], -back[..., 2, :], zero], -2),
            torch.stack([first[..., 0, :], middle[..., 0, :], last[..., 0, :], zero, zero], -2),
            torch.stack([zero, first[..., 1, :], middle[..., 1, :], last[..., 1, :], zero], -2),
            torch.stack([zero, zero, first[..., 2, :], middle[..., 2, :], last[..., 2, :]], -2),
            torch.stack([zero, d1, shear - d1, -shear - d4, d4], -2),
        ],
        dim=-3,
    )
    value = torch.cat([length[..., :3], theta, omega[..., None]], dim=-1)
    centre = value.new_tensor([restraint.ideal for restraint in RESTRAINTS[:-1]] + [0.0])
    width = slack * value.new_tensor([restraint.deviation for restraint in RESTRAINTS])
    return _outside(value, centre - width, centre + width), derivative


def coarse_rows(units: Tensor, cis: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    """Violations of distances, in bands wide enough for all that :func:`fine_rows` accepts.

    Arguments and results as of :func:`fine_rows`; all rows in Å.
    """
    low, high = (units.new_tensor(side) for side in distance_bands(slack))  # (2, 7): trans, cis
    first, second = zip(*_PAIRS, strict=True)
    gap = units[..., list(second), :] - units[..., list(first), :]  # (..., L, 7, 3)
    length = (gap.square().sum(-1) + _ROUND).sqrt()
    place = torch.eye(UNIT, dtype=units.dtype, device=units.device)
    sign = place[list(second)] - place[list(first)]  # (7, 5)
    derivative = sign[..., None] * (gap / length.clamp(min=_LEAST_LENGTH)[..., None])[..., None, :]
    index = cis.long()
    return _outside(length, low[index], high[index]), derivative


@lru_cache(maxsize=16)
def distance_bands(slack: float) -> tuple[list[list[float]], list[list[float]]]:
    """Lower and upper limits, Å, of the seven coarse distances: two rows each, trans and cis.

    They are the extremes over the corners of the fine bands (each distance is monotone in each
    length, angle and |ω| there).
    """
    ends = [restraint.bounds(slack) for restraint in RESTRAINTS[:-1]]
    tilt = slack * constants.OMEGA_TRANS.deviation
    low, high = [], []
    for planar in (math.pi, 0.0):
        corners = [
            _distances(corner, planar + turn)
            for corner in itertools.product(*ends)
            for turn in (0.0, tilt)
        ]
        low.append([min(column) for column in zip(*corners, strict=True)])
        high.append([max(column) for column in zip(*corners, strict=True)])
    return low, high


def _distances(values: tuple[float, ...], omega: float) -> tuple[float, ...]:
    """The seven coarse distances of a unit with these three lengths, three angles and torsion."""
    n_ca, ca_c, c_n, tau, at_c, at_n = values
    # C at the origin and N(i+1) on the x axis; CA of i in the plane, that of i + 1 turned by ω.
    start = (ca_c * math.cos(at_c), ca_c * math.sin(at_c), 0.0)
    off = n_ca * math.sin(at_n)
    end = (c_n - n_ca * math.cos(at_n), off * math.cos(omega), off * math.sin(omega))
    third = (
        math.sqrt(a * a + b * b - 2 * a * b * math.cos(angle))
        for a, b, angle in ((n_ca, ca_c, tau), (ca_c, c_n, at_c), (c_n, n_ca, at_n))
    )
    return (n_ca, ca_c, c_n, *third, math.dist(start, end))


def _omega_offset(u: Tensor, normal: Tensor, cis: Tensor) -> Tensor:
    """ω − 180°, or ω where cis, in (−π, π]; 0 with zero gradient where ω has no value."""
    y = (u[..., 1, :] * normal[..., 2, :]).sum(-1)
    x = (normal[..., 1, :] * normal[..., 2, :]).sum(-1)
    flip = torch.where(cis, torch.ones_like(y), -torch.ones_like(y))
    defined = y.detach().square() + x.detach().square() > 1e-4
    y = torch.where(defined, flip * y, torch.zeros_like(y))
    return torch.atan2(y, torch.where(defined, flip * x, torch.ones_like(x)))


def _outside(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return value - torch.minimum(torch.maximum(value, low), high)
