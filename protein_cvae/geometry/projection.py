"""Projection of a backbone onto ideal bonds, angles and planar peptides, all of them at once.

The backbone nearest to the input x₀ whose every length, angle and ω lies in a band about its
Engh-Huber ideal:

    min |x − x₀|²   subject to   c(x) = 0,

c the violations of ``constraint_rows``.  An iteration is one Newton step of SHAKE in matrix form
(Ryckaert, Ciccotti and Berendsen 1977, J. Comput. Phys. 23, 327-341; Barth et al. 1995, J. Comput.
Chem. 16, 1192-1209), J = dc/dx with rows scaled to unit length:

    x ← x + d − Jᵀ λ,    (J Jᵀ + ε) λ = c(x) + J d,

d = 0, or d = x₀ − x in the first ``pull`` fine iterations (Gauss-Newton on the Lagrangian), which
take back what earlier steps moved too far.  J Jᵀ couples each residue to the next only and is well
conditioned (bonds and angles are nearly orthogonal), so a few conjugate gradient steps solve it,
all residues in parallel.  Corrections are symmetric: no atom waits for another, the centroid stays
unless a move meets ``max_step``, rotations and reflections of the input carry over to the output.

Gradients.  "tangent": g ← g − Jᵀ (J Jᵀ + ε)⁻¹ J g with the rows of J that are at the edge of their
band at the solution: the derivative of the nearest point, but for the curvature of the surface
times the distance moved.  It never lengthens a gradient and keeps nothing of the iterations.
"unrolled": the exact derivative of the iterations, which may explode for inputs folded onto
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.errors import UserError
from protein_cvae.geometry import constants
from protein_cvae.geometry.constraint_rows import (
    NEEDS_LINK,
    RESTRAINTS,
    coarse_rows,
    fine_rows,
)
from protein_cvae.geometry.constraint_solver import apply, apply_transpose, scaled, solve
from protein_cvae.geometry.dihedrals import check_backbone, peptide_mask

# ε.  Far from the solution rows may be nearly parallel and ask for wide moves along what they
# share; near it ε only slows the last digits.
_COARSE_RIDGE, _FINE_RIDGE = 0.1, 0.01
_TANGENT_RIDGE, _TANGENT_SOLVES = 1e-4, 40
_PULL = 0.7  # share of x₀ − x in a pulling iteration
_EDGE = 0.05  # a value so close to the edge of its band counts as held there, standard deviations
_DONE = 0.5  # a conformer is done when nothing is further out of its band, standard deviations


@dataclass(frozen=True)
class ProjectionOptions:
    """How hard to project.

    Attributes:
        coarse: iterations on distances, for inputs far from ideal.
        coarse_solves: conjugate gradient steps in each; few, for a gentle approach.
        fine: iterations on bonds, angles and ω.
        fine_solves: conjugate gradient steps in each.
        pull: how many of the fine iterations also pull back to the input.
        slack: half width of the bands in standard deviations; values inside are left alone.  Real
            values scatter by about 1; the tolerance is 4.
        rounds: conformers that are still outside go through all of it again, at most this often in
            all; 1 makes the work fixed.
        max_step: largest move of an atom in one iteration, Å.
        gradient: how to differentiate, see the module.

    Raises:
        ValueError: for numbers that make no sense.
    """

    coarse: int = 8
    coarse_solves: int = 4
    fine: int = 8
    fine_solves: int = 12
    pull: int = 3
    slack: float = 1.0
    rounds: int = 4
    max_step: float = 1.0
    gradient: Literal["tangent", "unrolled"] = "tangent"

    def __post_init__(self) -> None:
        counts = (self.coarse, self.fine, self.pull)
        if min(counts) < 0 or min(self.coarse_solves, self.fine_solves, self.rounds) < 1:
            raise UserError(f"iterations must not be negative, solves and rounds >= 1, got {self}")
        if not 0 <= self.slack < constants.TOLERANCE - _DONE or not self.max_step > 0:
            raise UserError(
                f"slack must be in [0, {constants.TOLERANCE - _DONE}) standard deviations and "
                f"max_step positive, got {self.slack} and {self.max_step}"
            )
        if self.gradient not in ("tangent", "unrolled"):
            raise UserError(f"gradient must be 'tangent' or 'unrolled', got {self.gradient!r}")


def project(
    coordinates: Tensor,
    bonded: Tensor,
    mask: Tensor,
    cis: Tensor | None = None,
    options: ProjectionOptions | None = None,
) -> Tensor:
    """The backbone inside tolerance that is nearest to the input; differentiable.

    Args:
        coordinates: (..., L, 3, 3), Å, float32 or float64: residue, atom (N, CA, C), xyz.
        bonded: (..., L) bool, residue i is bonded to i + 1.
        mask: (..., L) bool, residue present; others may hold anything, NaN included.
        cis: (..., L) bool, the peptide bond after residue i is cis; None for all trans.  See
            :func:`nearer_cis`.
        options: None for the defaults, which bring models with independent noise of 1 Å per
            coordinate inside tolerance.

    Returns:
        (..., L, 3, 3); 0 where masked.  Values already inside the bands are left alone, so that a
        second projection changes nothing.  Each conformer is treated for itself.  An input so far
        off that ``rounds`` were not enough is returned as it then stands:
        :func:`inside_tolerance` tells.

    Raises:
        ValueError: where shapes or types do not fit, or a present atom is not finite.
    """
    options = options or ProjectionOptions()
    check_backbone(coordinates, bonded, mask)
    if cis is not None and (cis.shape != mask.shape or cis.dtype != torch.bool):
        raise UserError(
            f"cis must be bool of shape {tuple(mask.shape)}, got {cis.dtype} {tuple(cis.shape)}"
        )
    present = mask[..., None, None]
    x = torch.where(present, coordinates, torch.zeros_like(coordinates))
    if not bool(x.isfinite().all()):
        raise UserError("coordinates hold NaN or infinity at present residues; mask them")
    link = peptide_mask(bonded, mask)
    cis = torch.zeros_like(link) if cis is None else cis & link

    shape = x.shape
    x, link, mask, cis = (
        x.reshape(-1, *shape[-3:]),
        *(value.reshape(-1, shape[-3]) for value in (link, mask, cis)),
    )
    if options.gradient == "unrolled":
        return _iterate(x, link, mask, cis, options).reshape(shape)
    with torch.no_grad():
        projected = _iterate(x, link, mask, cis, options)
    if not x.requires_grad:
        return projected.reshape(shape)
    with torch.no_grad():
        units = _units(projected, link, mask)
        inner, rows = fine_rows(units, cis, max(options.slack - _EDGE, 0.0))
        held = (inner != 0) if options.slack > 0 else torch.ones_like(inner, dtype=torch.bool)
        rows, _ = scaled(rows, inner, held & _used(link, mask))
    moved: Tensor = _TangentProjection.apply(x, projected, rows)
    return moved.reshape(shape)


def _iterate(
    x: Tensor, link: Tensor, mask: Tensor, cis: Tensor, options: ProjectionOptions
) -> Tensor:
    """As many rounds as each conformer needs: (B, L, 3, 3) -> (B, L, 3, 3)."""
    x = _round(x, link, mask, cis, options)
    for _ in range(options.rounds - 1):
        with torch.no_grad():
            excess = _excess(x, link, mask, cis, options.slack)
            again = (excess.flatten(1) > _DONE).any(-1).nonzero()[:, 0]
        if len(again) == 0:
            break
        redone = _round(x[again], link[again], mask[again], cis[again], options)
        x = x.index_copy(0, again, redone)
    return x


class _TangentProjection(torch.autograd.Function):
    """Forward: ``projected``.  Backward to x: the part of the gradient along the surface."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projected: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return projected.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        across = solve(rows, apply(rows, grad), _TANGENT_SOLVES, _TANGENT_RIDGE)
        return grad - apply_transpose(rows, across), None, None


def nearer_cis(omega: Tensor) -> Tensor:
    """(..., L) bool: ω (radians) is nearer to 0° than to 180°."""
    return omega.cos() > 0


def inside_tolerance(
    coordinates: Tensor,
    bonded: Tensor,
    mask: Tensor,
    cis: Tensor | None = None,
    deviations: float = constants.TOLERANCE,
) -> Tensor:
    """(..., L) bool: bonds, angles and ω of unit i are all within so many standard deviations.

    Arguments as of :func:`project`; masked residues are True.
    """
    check_backbone(coordinates, bonded, mask)
    x = torch.where(mask[..., None, None], coordinates, torch.zeros_like(coordinates))
    link = peptide_mask(bonded, mask)
    cis = torch.zeros_like(link) if cis is None else cis & link
    return (_excess(x, link, mask, cis, deviations) <= 0).all(-1)


def _round(
    x: Tensor, link: Tensor, mask: Tensor, cis: Tensor, options: ProjectionOptions
) -> Tensor:
    """All coarse and fine iterations once: (B, L, 3, 3) -> (B, L, 3, 3)."""
    start = x
    used = _used(link, mask)
    for step in range(options.coarse + options.fine):
        fine = step >= options.coarse
        make_rows = fine_rows if fine else coarse_rows
        violation, rows = make_rows(_units(x, link, mask), cis, options.slack)
        rows, error = scaled(rows, violation, used)
        back = torch.zeros_like(x)
        if fine and step < options.coarse + options.pull:
            back = _PULL * (start - x)
            error = error + apply(rows, back)
        solves = options.fine_solves if fine else options.coarse_solves
        move = back - apply_transpose(
            rows, solve(rows, error, solves, _FINE_RIDGE if fine else _COARSE_RIDGE)
        )
        size = (move.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        x = x + move * (options.max_step / size).clamp(max=1.0)
    return x


def _units(x: Tensor, link: Tensor, mask: Tensor) -> Tensor:
    """(..., L, 3, 3) -> (..., L, 5, 3): residue and N, CA of the next.

    Absent atoms get a place where no row is degenerate; their rows are not used.
    """
    spare = x.new_tensor(
        [[0.0, 1.4, 0.0], [0.0, 0.0, 0.0], [1.4, 0.0, 0.0], [2.0, 1.2, 0.1], [3.4, 1.2, 0.2]]
    )
    own = torch.where(mask[..., None, None], x, spare[:3])
    follower = torch.cat([x[..., 1:, :2, :], x[..., -1:, :2, :]], dim=-3)
    absent = own[..., 2:, :] + (spare[3:] - spare[2])
    return torch.cat([own, torch.where(link[..., None, None], follower, absent)], dim=-2)


def _excess(x: Tensor, link: Tensor, mask: Tensor, cis: Tensor, deviations: float) -> Tensor:
    """(..., L, 7): how far each value is outside its band, in standard deviations."""
    violation, _ = fine_rows(_units(x, link, mask), cis, deviations)
    scale = x.new_tensor([restraint.deviation for restraint in RESTRAINTS])
    return _used(link, mask) * violation.abs() / scale


def _used(link: Tensor, mask: Tensor) -> Tensor:
    """(..., L, 7) bool: which constraints exist."""
    needs_link = torch.tensor(NEEDS_LINK, device=mask.device)
    return torch.where(needs_link, link[..., None], mask[..., None])
