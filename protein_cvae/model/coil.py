"""Prior of backbone torsions: near those of the template, or a coil; and tails drawn from it.

Given the template, the torsions of a residue are distributed as

    p(φ, ψ) = (1 − q) M(φ − φ_T; κ) M(ψ − ψ_T; κ) + q C(φ, ψ),

M the von Mises density.  q and κ are learned for each residue from what the template shows around
it: its state in the conditioner, contacts, softness, disulfide bonds, distance from the end of its
chain.  C is the density of the residue's Ramachandran class
(:mod:`protein_cvae.geometry.ramachandran`) with learned weights of three basins: helical, extended,
and φ > 0.  What is learned is trained by the likelihood of the torsions of real conformers.

A draw replaces tails: from an end of a chain inwards as long as q, averaged over three residues,
stays above a threshold θ that is drawn for each conformer: the surer the model is of a coil, the
more conformers have it.  There torsions are drawn from p with min(1, q / θ) in place of q, the
chain is rebuilt from its first residue inside, and carried along with the motion of that residue.
Of a few tries the one with fewest CA overlaps is taken.  A flexible residue inside keeps its
template: turning it would move half of the protein.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.rng import counter_normal, key_of_numbers, uniform_of_normal
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals, peptide_mask
from protein_cvae.geometry.frames import residue_frames
from protein_cvae.geometry.internal import bond_geometry
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.ramachandran import (
    CLASS_NAMES,
    ramachandran_class,
    ramachandran_energy,
)
from protein_cvae.model.layers import perceptron
from protein_cvae.model.motion import axis_angle
from protein_cvae.model.states import Condition
from protein_cvae.model.tails import anchors, at_place, carried, overlaps, tails
from protein_cvae.residues import ALPHABET, UNKNOWN

_CYS = ALPHABET.index("C")
_BASINS = 3
# ψ of helical residues (Lovell et al. 2003, figure 4): between these.
_HELICAL = (-2.1, 0.87)
_CELLS = 72  # per torsion, of the table that coils are drawn from
_CONTACT_RADIUS = 10.0  # Å
_DISULFIDE = 7.5  # Å between CA
_DEPTH = 20.0  # residues from an end
# Starts: q of one residue in twenty, 0.2 rad about the template.
_START = (-3.0, 3.2)
_KAPPA_RANGE = (0.0, 7.0)  # of log κ
_THRESHOLD = (0.2, 1.0)
_TRIES = 3


class CoilPrior(nn.Module):
    """See the module.

    Args:
        width: of the states of the condition.
    """

    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = perceptron(width + 5, width // 2, 2, zero=True)
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.bias = nn.Parameter(torch.tensor(_START))
        self.basins = nn.Parameter(torch.zeros(len(CLASS_NAMES), _BASINS))
        with torch.device("cpu"):  # numbers are needed, whatever the weights are made on
            self.register_buffer("table", _basin_table(), persistent=False)

    def forward(self, batch: ProteinBatch, condition: Condition) -> tuple[Tensor, Tensor]:
        """q (B, L) in (0, 1), 0 where there is no template, and log κ (B, L)."""
        mask = condition.modes.mask
        origin = condition.origin
        gap = (origin[:, :, None] - origin[:, None]).square().sum(-1)
        pair = mask[:, :, None] & mask[:, None]
        contacts = ((gap < _CONTACT_RADIUS**2) & pair).sum(2).to(origin)
        cys = (batch.aatype == _CYS) & mask & batch.sequence_mask[:, None]
        apart = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        bridged = ((gap < _DISULFIDE**2) & cys[:, :, None] & cys[:, None] & apart).any(2)
        soft = 0.5 * condition.modes.residue_variance().clamp_min(1e-4).log()
        before, after = _depths(batch.chain_index, condition.mask)
        features = [
            0.05 * contacts,
            soft,
            bridged.to(origin),
            (before / _DEPTH).clamp_max(1),
            (after / _DEPTH).clamp_max(1),
        ]
        found = self.head(torch.cat([condition.c, torch.stack(features, -1)], dim=-1))
        q = found[..., 0].sigmoid() * mask
        return q, found[..., 1].clamp(*_KAPPA_RANGE)

    def nll(self, batch: ProteinBatch, condition: Condition) -> Tensor:
        """(B,) nats per residue of the torsions of the conformers; 0 without template."""
        mask = condition.modes.mask
        real, defined = backbone_dihedrals(
            batch.coordinates.to(condition.origin), batch.bonded, mask
        )
        template, there = backbone_dihedrals(
            batch.template.to(condition.origin), batch.bonded, mask
        )
        both = defined.phi & defined.psi & there.phi & there.psi
        q, log_kappa = self(batch, condition)
        near = von_mises(real.phi - template.phi, log_kappa.exp())
        near = near + von_mises(real.psi - template.psi, log_kappa.exp())
        kind = _kind(batch, real.omega, mask)
        coil = self.log_coil(real.phi, real.psi, kind)
        q = q.clamp(1e-6, 1 - 1e-6)
        total = torch.logaddexp((1 - q).log() + near, q.log() + coil)
        total = torch.where(both, -total, torch.zeros_like(total))
        return total.sum(1) / both.sum(1).clamp_min(1)

    def log_coil(self, phi: Tensor, psi: Tensor, kind: Tensor) -> Tensor:
        """(...) log C(φ, ψ), per rad²."""
        weights = (self.basins.log_softmax(1) - _basin_mass(self.table).log()).to(phi)
        return weights[kind, basin(phi, psi)] - ramachandran_energy(phi, psi, kind)

    @torch.no_grad()
    def with_tails(
        self, batch: ProteinBatch, condition: Condition, shift: Tensor, turn: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shifts and turns (B, L, 3) of a draw, with tails as the module says.

        Args:
            batch: templates.
            condition: of the batch.
            shift, turn: the draw, Å and radians.
            noise: (B, n) standard normal numbers of the draw; those of the tails follow from them.
        """
        mask = condition.modes.mask
        q, log_kappa = self(batch, condition)
        link = peptide_mask(batch.bonded, mask)
        key = key_of_numbers(noise[:, 0], 0)
        length = mask.shape[1]
        drawn = counter_normal(key, 1 + _TRIES * length * 6, torch.float64)
        threshold = _THRESHOLD[0] + (_THRESHOLD[1] - _THRESHOLD[0]) * uniform_of_normal(
            drawn[:, :1]
        )
        tail = tails(q, link, mask, threshold)
        if not bool(tail.any()):
            return shift, turn
        anchor = anchors(tail, link)
        share = (q / threshold).clamp_max(1)
        # Residues in order: padding only adds numbers at the end.
        each = drawn[:, 1:].view(len(mask), length, _TRIES, 6)
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for numbers in each.unbind(2):
            rotation, origin = self._rebuilt(
                batch, condition, share, log_kappa, tail, anchor, numbers
            )
            rotation, origin = carried(condition, rotation, origin, shift, turn, anchor)
            cost = overlaps(condition, origin, shift, tail)
            if best is None:
                best = rotation, origin, cost
                continue
            better = cost < best[2]
            best = (
                torch.where(better[:, None, None, None], rotation, best[0]),
                torch.where(better[:, None, None], origin, best[1]),
                torch.minimum(cost, best[2]),
            )
        assert best is not None, "there are tries"
        rotation, origin, _ = best
        gap = (origin - condition.origin.double())[..., None, :] @ condition.rotation.double()
        new_turn = axis_angle(condition.rotation.double().mT @ rotation)
        there = tail[..., None]
        return (
            torch.where(there, gap[..., 0, :].to(shift), shift),
            torch.where(there, new_turn.to(turn), turn),
        )

    def _rebuilt(
        self,
        batch: ProteinBatch,
        condition: Condition,
        share: Tensor,
        log_kappa: Tensor,
        tail: Tensor,
        anchor: Tensor,
        numbers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Frames (B, L, 3, 3), (B, L, 3) of the templates with other tails; float64."""
        mask = condition.modes.mask
        template = batch.template.double()
        torsions, _ = backbone_dihedrals(template, batch.bonded, mask)
        kind = _kind(batch, torsions.omega, mask)
        width = (-0.5 * log_kappa.double()).exp()
        phi = torsions.phi + width * numbers[..., 0]
        psi = torsions.psi + width * numbers[..., 1]
        coil_phi, coil_psi = self._coil(
            kind, *(uniform_of_normal(numbers[..., k]) for k in (2, 3, 4))
        )
        coiled = uniform_of_normal(numbers[..., 5]) < share
        phi = torch.where(tail, torch.where(coiled, coil_phi, phi), torsions.phi)
        psi = torch.where(tail, torch.where(coiled, coil_psi, psi), torsions.psi)
        bonds, _ = bond_geometry(template, batch.bonded, mask)
        start = residue_frames(template, mask)
        built = build_backbone(
            Torsions(phi, psi, torsions.omega), batch.bonded, mask, bonds=bonds, start=start
        )
        rotation, origin = residue_frames(built, mask)
        # Each piece of chain onto a residue of it that kept its torsions.
        turn = at_place(start[0], anchor) @ at_place(rotation, anchor).mT
        at = at_place(origin, anchor)
        origin = (turn @ (origin - at)[..., None])[..., 0] + at_place(start[1], anchor)
        return turn @ rotation, origin

    def _coil(
        self, kind: Tensor, cell: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """φ, ψ of uniform numbers: which cell of the table, and where in it."""
        mass = self.table.double() / _basin_mass(self.table.double())[:, :, None]
        mass = (self.basins.double().softmax(1)[:, :, None] * mass).sum(1)  # (6, cells)
        # On the CPU: cumsum of floats is refused on CUDA where results must repeat.
        limits = mass.cpu().cumsum(1).to(mass.device)
        limits = limits / limits[:, -1:]
        index = torch.zeros_like(kind)
        for number in range(len(CLASS_NAMES)):
            mine = kind == number
            index[mine] = torch.searchsorted(limits[number], cell[mine].contiguous())
        index = index.clamp_max(_CELLS**2 - 1)
        step = 2 * math.pi / _CELLS
        phi = -math.pi + step * (torch.div(index, _CELLS, rounding_mode="floor") + first)
        return phi, -math.pi + step * (index % _CELLS + second)


def _kind(batch: ProteinBatch, omega: Tensor, mask: Tensor) -> Tensor:
    """(B, L) Ramachandran classes, all general where the sequence is withheld."""
    unknown = torch.full_like(batch.aatype, UNKNOWN)
    aatype = torch.where(batch.sequence_mask[:, None], batch.aatype, unknown)
    return ramachandran_class(aatype, omega, batch.bonded & mask)


def von_mises(angle: Tensor, kappa: Tensor) -> Tensor:
    """(...) log density per radian about 0 (Mardia and Jupp 2000, §3.5.4)."""
    return kappa * (angle.cos() - 1) - (2 * math.pi * torch.special.i0e(kappa)).log()


def basin(phi: Tensor, psi: Tensor) -> Tensor:
    """(...) int64: 0 helical, 1 extended, 2 left-handed (φ > 0)."""
    phi, psi = (torch.atan2(x.sin(), x.cos()) for x in (phi, psi))
    helical = (psi > _HELICAL[0]) & (psi < _HELICAL[1])
    return torch.where(phi > 0, 2, torch.where(helical, 0, 1))


def _depths(chain_index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Residues present before and after each one in its chain, (B, L) float."""
    same = (chain_index[:, :, None] == chain_index[:, None]) & mask[:, None]
    place = torch.arange(mask.shape[1], device=mask.device)
    before = (same & (place < place[:, None])).sum(2)
    after = (same & (place > place[:, None])).sum(2)
    return before.float(), after.float()


def _basin_table() -> Tensor:
    """(6, 3, cells) mass of each cell of (φ, ψ) in the density of a class, by basin."""
    step = 2 * math.pi / _CELLS
    middle = -math.pi + step * (torch.arange(_CELLS, dtype=torch.float64) + 0.5)
    phi, psi = torch.meshgrid(middle, middle, indexing="ij")
    kind = torch.arange(len(CLASS_NAMES))[:, None, None].expand(-1, _CELLS, _CELLS)
    mass = (-ramachandran_energy(phi, psi, kind)).exp() * step**2
    mine = basin(phi, psi)[None] == torch.arange(_BASINS)[:, None, None]  # (3, cells, cells)
    return (mass[:, None] * mine).flatten(2)


def _basin_mass(table: Tensor) -> Tensor:
    """(6, 3) mass of each basin."""
    return table.sum(2).clamp_min(1e-12)
