"""Draws as wide as they are told to be.

One structure does not say how wide its ensemble is.  Where a profile r_i (RMSF of CA, Å) or one
number (mean pairwise CA-RMSD, Å) is told, the displacements w of the K draws keep their
correlations and directions and lose their own widths:

1.  The common amplitude of each draw is taken out, w_k ← w_k / a_k, from the stretching of its
    links, which are many, so that a_k is well known:
    a_k² = mean_i |Δw_ki|² / d_i,   d_i = mean_k |Δw_ki|² / a_k²,   Δw_ki = w_k,i+1 − w_ki.
2.  u_ki = w_ki / (mean_l |w_li|²)^½ has RMSF 1 at every residue; a draw is moved by s_i u_ki.
3.  The template is bent there in steps of 1 Å: links keep their length, and CA two apart stay
    within the reach of a backbone, by SHAKE with mobilities s_i², so that a soft tail gives way
    to a stiff core.  Each residue turns as its neighbours along the chain do.
4.  The draws are decoded and finished, and s_i ← s_i r_i / m_i, m the RMSF measured on the result:
    an iterated fixed point with common random numbers.  The round that comes nearest is taken.

For a number there is one s, and s_i is s times the RMSF that the draws have themselves.
Nothing here knows how the model draws: a draw is the shift and the turn of each residue in the
frames of the template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.align import align
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.frames import residue_frames
from protein_cvae.geometry.superposition import MIN_SUPERPOSED, mean_rmsd, superpose_on_mean
from protein_cvae.geometry.torn import REACH
from protein_cvae.model.motion import axis_angle

MIN_PILOT, MAX_PILOT = 16, 32
"""Draws that the scale is found on; of fewer wanted ones, as many are drawn."""

_AMPLITUDE_ROUNDS = 5
_ROUNDS = 7
_TOLERANCE = 0.03  # of log RMSF, root mean square: the search ends there
_FLOOR = 0.01  # Å, added before logarithms are taken: less is not seen in a file
_CHANGE = 2.0  # largest factor on a scale in one round
_STEP = 1.0  # Å, of a draw's most moved residue, in one step of bending
_SOLVES, _RELAXATION = 10, 0.6  # of a step
_SECOND = (5.0, 7.2)  # Å, CA(i) to CA(i+2)
_WINDOW = 3  # residues on either side that turn a residue, with weights of this width:
_WIDTH = 1.5


@dataclass(frozen=True, eq=False)
class Told:
    """What was told of one protein.

    Attributes:
        rmsf: (L,) Å, of CA; None where a number is told.
        rmsd: Å, mean over pairs of conformers, all CA; None where a profile is told.
        superposed: (L,) bool, residues that the profile is superposed on.
    """

    rmsf: Tensor | None
    rmsd: float | None
    superposed: Tensor

    @property
    def target(self) -> Tensor:
        """(L,) or (1,) Å."""
        return torch.tensor([self.rmsd]) if self.rmsf is None else self.rmsf

    def measured(self, coordinates: Tensor) -> Tensor:
        """What (K, L, 3, 3) conformers have of the target."""
        ca = coordinates[:, :, CA].double().cpu()
        if self.rmsf is None:
            return torch.tensor([mean_rmsd(ca)])
        moved, mean = superpose_on_mean(ca, self.superposed)
        return (moved - mean).square().sum(-1).mean(0).sqrt().float()

    def reached(self, coordinates: Tensor) -> dict[str, float]:
        """What was told and what conformers (K, L, 3, 3) have, in Å, for the file beside them."""
        target, found = self.target.double(), self.measured(coordinates).double()
        if self.rmsf is None:
            return {"rmsd": float(target), "rmsd_reached": float(found)}
        both = torch.stack([target, found])
        return {
            "mean_rmsf": float(target.mean()),
            "mean_rmsf_reached": float(found.mean()),
            "correlation": float(torch.corrcoef(both)[0, 1]),
        }


def stiff_part(rmsf: Tensor) -> Tensor:
    """(L,) bool: at most twice the lower quartile of (L,) RMSF; all where fewer than four are."""
    stiff = rmsf <= 2 * torch.quantile(rmsf, 0.25)
    return stiff if int(stiff.sum()) >= MIN_SUPERPOSED else torch.ones_like(stiff)


def told_motion(
    shift: Tensor,
    batch: ProteinBatch,
    decode: Callable[[Tensor, Tensor], Tensor],
    told: Told,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Shifts and turns whose conformers have the spread that was told.

    Args:
        shift: (K, L, 3) Å, of K draws, in the frames of the template; their widths do not matter.
        batch: the template, one item.
        decode: (K, L, 3) shifts, Å, and turns, radians, to conformers (K, L, 3, 3), Å, as they
            will be written.
        told: of the same residues.
        temperature: factor on what was told.

    Returns:
        K of each; the scale is found on the first ``MAX_PILOT`` at most.
    """
    motion = Motion.of(shift, batch)
    pilot = motion.first(MAX_PILOT)

    def draw(scale: Tensor) -> Tensor:
        return told.measured(decode(*pilot.scaled(scale)))

    target = temperature * told.target
    if told.rmsf is None:
        # The links of a template hardly stretch; a start that is too wide costs rounds only.
        own = motion.width / motion.width.square().mean().sqrt().clamp_min(1e-9)
        own = own.cpu()
        scale = fit_scale(lambda s: draw(s * own), target / 2**0.5, target) * own
    else:
        scale = fit_scale(draw, target, target)
    return motion.scaled(scale)


def fit_scale(draw: Callable[[Tensor], Tensor], start: Tensor, target: Tensor) -> Tensor:
    """The scale (P,) whose draws have what is wanted, by an iterated fixed point.

    Args:
        draw: scale (P,) to what its draws have (P,), Å; deterministic.
        start: scale to begin with, not negative.
        target: (P,) Å, not negative.

    Returns:
        Of at most ``_ROUNDS`` scales that were tried the one with the least error.
    """
    scale, best, least = start, start, float("inf")
    for _ in range(_ROUNDS):
        found = draw(scale)
        ratio = (target + _FLOOR) / (found + _FLOOR)
        error = float(ratio.log().square().mean().sqrt())
        if error < least:
            best, least = scale, error
        if error < _TOLERANCE:
            break
        scale = scale * (target / found.clamp_min(1e-6)).clamp(1 / _CHANGE, _CHANGE)
    return best


@dataclass(frozen=True, eq=False)
class Motion:
    """Displacements of K draws from one template, in its pose.

    Attributes:
        rotation, ca: (L, 3, 3), (L, 3) Å, frames of the template.
        even: (K, L, 3), Å, displacements without the amplitude of each draw.
        link: (L - 1,) bool, residue i is bonded to i + 1.
        reach: (L - 1,) Å, most from residue i to i + 1; infinite between chains.
    """

    rotation: Tensor
    ca: Tensor
    even: Tensor
    link: Tensor
    reach: Tensor

    @staticmethod
    def of(shift: Tensor, batch: ProteinBatch) -> Motion:
        """The motion of shifts (K, L, 3), Å, in the frames of the one item of a batch."""
        rotation, ca = (f[0] for f in residue_frames(batch.template, batch.template_mask))
        moved = (rotation @ shift[..., None])[..., 0]
        link = batch.bonded[0, :-1]
        chain, index = batch.chain_index[0], batch.residue_index[0]
        apart = (index[1:] - index[:-1]).clamp_min(1).to(ca)
        far = torch.full_like(apart, torch.inf)
        reach = torch.where(chain[1:] == chain[:-1], REACH * apart, far)
        reach = torch.maximum(reach, (ca[1:] - ca[:-1]).norm(dim=-1))  # of a template that is torn
        return Motion(rotation, ca, even_motion(moved, link), link, reach)

    def first(self, count: int) -> Motion:
        """That of the first draws."""
        return Motion(self.rotation, self.ca, self.even[:count], self.link, self.reach)

    @property
    def width(self) -> Tensor:
        """(L,) Å, RMSF of the draws about the template."""
        return self.even.square().sum(-1).mean(0).sqrt()

    def scaled(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and turns (K, L, 3) of RMSF ``scale`` (L,) Å about the template."""
        scale = scale.to(self.even)
        unit = self.even / self.width.clamp_min(1e-9)[:, None]
        bent = bend(self.ca, scale[:, None] * unit, self.link, self.reach, scale.square())
        turned = local_rotation(self.ca, bent, self.link)
        shift = (self.rotation.mT @ (bent - self.ca)[..., None])[..., 0]
        return shift, axis_angle(self.rotation.mT @ turned @ self.rotation)


def even_motion(moved: Tensor, link: Tensor) -> Tensor:
    """Displacements (K, L, 3) without the amplitude of each draw; see the module, step 1."""
    stretch = (moved[:, 1:] - moved[:, :-1])[:, link].square().sum(-1)  # (K, links)
    square = torch.ones_like(stretch[:, :1])
    for _ in range(_AMPLITUDE_ROUNDS):
        # The widest draws must not decide alone what a link's stretch is.
        usual = (stretch / square).mean(0).clamp_min(1e-12)
        square = (stretch / usual).mean(1, keepdim=True).clamp_min(1e-12)
    return moved / square.sqrt()[..., None]


def bend(ca: Tensor, motion: Tensor, link: Tensor, reach: Tensor, mobility: Tensor) -> Tensor:
    """CA traces (K, L, 3) near ``ca + motion`` that a chain can have.

    Args:
        ca: (L, 3) Å, template.
        motion: (K, L, 3) Å.
        link: (L - 1,) bool, bonded to the next.
        reach: (L - 1,) Å, most to the next residue where it is not bonded.
        mobility: (L,) how much each residue gives way, not negative.
    """
    length = (ca[1:] - ca[:-1]).norm(dim=-1)
    low = torch.where(link, length, torch.zeros_like(length))
    bounds = [(1, low, torch.where(link, length, reach))]
    if len(ca) > 2:
        second, both = (ca[2:] - ca[:-2]).norm(dim=-1), link[1:] & link[:-1]
        low, high = second.clamp_max(_SECOND[0]), second.clamp_min(_SECOND[1])
        none = torch.zeros_like(low)
        bounds.append((2, torch.where(both, low, none), torch.where(both, high, none + torch.inf)))
    gives = mobility.clamp_min(1e-6 * float(mobility.max()) + 1e-12)
    x = ca.expand_as(motion)
    steps = max(1, int(float(motion.norm(dim=-1).max()) / _STEP + 1))
    for _ in range(steps):
        x = x + motion / steps
        for _ in range(_SOLVES):
            for apart, least, most in bounds:
                x = x + _RELAXATION * _corrected(x, apart, least, most, gives)
    return x


def _corrected(x: Tensor, apart: int, least: Tensor, most: Tensor, gives: Tensor) -> Tensor:
    """The moves (K, L, 3) that bring residues so many apart between two distances."""
    gap = x[:, apart:] - x[:, :-apart]
    distance = gap.norm(dim=-1).clamp_min(1e-6)
    excess = distance - torch.minimum(torch.maximum(distance, least), most)
    pull = (excess / distance)[..., None] * gap
    total = gives[:-apart] + gives[apart:]
    move = torch.zeros_like(x)
    move[:, :-apart] += (gives[:-apart] / total)[:, None] * pull
    move[:, apart:] -= (gives[apart:] / total)[:, None] * pull
    return move


def local_rotation(ca: Tensor, moved: Tensor, link: Tensor) -> Tensor:
    """(K, L, 3, 3) rotations that superpose the surroundings of each residue along its chain.

    Args:
        ca: (L, 3) Å, template.
        moved: (K, L, 3) Å.
        link: (L - 1,) bool, bonded to the next; others across a break do not count.
    """
    draws, length = moved.shape[:2]
    step = torch.arange(-_WINDOW, _WINDOW + 1, device=ca.device)
    place = torch.arange(length, device=ca.device)[:, None] + step  # (L, window)
    inside = (place >= 0) & (place < length)
    place = place.clamp(0, length - 1)
    stretch = torch.cat([link.new_zeros(1).long(), (~link).long().cumsum(0)])
    inside &= stretch[place] == stretch[:, None]
    weight = inside * (-0.5 * (step / _WIDTH).square()).exp()
    size = (draws * length, 2 * _WINDOW + 1)
    here = ca[place].expand(draws, *place.shape, 3).reshape(*size, 3)
    there = moved[:, place].reshape(*size, 3)
    fit = align(here, there, weight.to(ca).expand(draws, *place.shape).reshape(size))
    return fit.rotation.view(draws, length, 3, 3)
