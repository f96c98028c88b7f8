"""Heavy atoms of generated conformers: side chains carried from the input, or packed.

Each conformer takes the side chains of the input model that is nearest to it by CA-RMSD, residue by
residue (:func:`~protein_cvae.geometry.side_chains.carried`).  One that is incomplete there, or
overlaps others, comes from the next nearest model where it is complete and does not
(:mod:`~protein_cvae.geometry.relief`).  Residues that no model has are packed around the others
(:mod:`~protein_cvae.generation.packer`).  Hydrogens are not placed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.align import aligned_rmsd
from common.errors import UserError
from protein_cvae.ensemble import Ensemble, Note, ReadReport, labels
from protein_cvae.generation.packer import EXTRA, pack, packer_installed
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.frames import carbonyl_oxygen
from protein_cvae.geometry.relief import least_overlap
from protein_cvae.geometry.side_chains import carried, ideal_cb, placed, turned_chi1
from protein_cvae.residues import ALPHABET, UNKNOWN_LETTER
from protein_cvae.side_chains import SideChains, side_chain_mask

Atoms = Literal["auto", "heavy", "backbone"]
ATOMS = ("auto", "heavy", "backbone")
LEFT_OUT = "side chains left out"
_CANDIDATES = 20  # nearest models that a residue may take its side chain from
_THIRD = 2 * math.pi / 3
_TURNED = 0.5  # Å of overlap that a turned side chain has to be better by


def check_word(atoms: str) -> None:
    """Raise ValueError unless this is one of ``ATOMS``."""
    if atoms not in ATOMS:
        raise UserError(f"atoms must be one of {', '.join(ATOMS)}, got {atoms!r}")


def check_atoms(base: Ensemble, given: Ensemble | None, atoms: Atoms) -> None:
    """Refuse ``heavy`` where side chains are neither in the input nor can be packed.

    Args:
        base: the residues.
        given: the models whose side chains are carried; None to carry none.
        atoms: as asked for.

    Raises:
        ValueError: naming the residues and the extra to install.
    """
    missing = _obstacle(base, given)
    if atoms == "heavy" and missing:
        raise UserError(
            f"{base.source}: atoms heavy: {missing}; or choose atoms: backbone (--atoms backbone)"
        )


def with_side_chains(made: Ensemble, given: Ensemble | None, atoms: Atoms) -> Ensemble:
    """Conformers with their side chains, and notes in ``report`` on where these come from.

    Args:
        made: K conformers.
        given: M models of the same residues; None to carry no side chain.
        atoms: ``backbone`` changes nothing; ``auto`` neither, but for a note, where ``heavy`` would
            be refused.

    Raises:
        ValueError: see :func:`check_atoms`.
    """
    if atoms == "backbone":
        return made
    check_atoms(made, given, atoms)
    missing = _obstacle(made, given)
    if missing:
        note = Note(LEFT_OUT, None, "", missing)
        return replace(made, report=ReadReport((*made.report.notes, note)))
    found, notes = cb_alone(made), []
    if given is not None and given.side_chains is not None:
        order = nearest_models(made, given)
        found = carried_side_chains(made, given, order)
        nearest = (given.model_numbers[m] for m in order[:, 0].tolist())
        notes = [
            Note("side chains", number, "", f"carried from model {model}")
            for number, model in zip(made.model_numbers, nearest, strict=True)
        ]
    free = ~found.complete(made.sequence)
    if bool(free.any()):
        found = pack(made, found, free)
        notes += _noted(made, free.any(0), "side chain packed", "by FASPR")
    unknown = torch.tensor([letter == UNKNOWN_LETTER for letter in made.sequence])
    notes += _noted(made, unknown, "unknown amino acid", "written with CB alone")
    return replace(made, side_chains=found, report=ReadReport((*made.report.notes, *notes)))


def heavy_atoms(ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """N, CA, C, O and side chains: (M, L, 4 + S, 3) Å, and (M, L, 4 + S) bool, the atom is there.

    O stands where :func:`~protein_cvae.geometry.frames.carbonyl_oxygen` puts it.
    """
    x, mask, side = ensemble.coordinates, ensemble.mask, ensemble.side_chains
    backbone = backbone_atoms(ensemble)
    there = mask[..., None].expand(*mask.shape, backbone.shape[2])
    if side is None:
        side = SideChains.none(ensemble.num_models, ensemble.length)
    beyond = placed(side.local.to(x), x, mask)
    return torch.cat([backbone, beyond], dim=2), torch.cat([there, side.mask], dim=2)


def backbone_atoms(ensemble: Ensemble) -> Tensor:
    """(M, L, 4, 3) Å: N, CA, C, O."""
    x, mask = ensemble.coordinates, ensemble.mask
    oxygen = carbonyl_oxygen(x, ensemble.bonded.expand(mask.shape), mask)
    return torch.cat([x, oxygen[:, :, None]], dim=2)


def _noted(ensemble: Ensemble, residues: Tensor, kind: str, detail: str) -> list[Note]:
    """A note on each residue where (L,) is True."""
    chosen = residues.nonzero()[:, 0].tolist()
    return [Note(kind, None, ensemble.label(i), detail) for i in chosen]


def _obstacle(base: Ensemble, given: Ensemble | None) -> str:
    """Why not all side chains can be had; "" if they can."""
    if packer_installed():
        return ""
    none = given is None or given.side_chains is None or not bool(given.side_chains.mask.any())
    if none and not bool((side_chain_mask(base.sequence).sum(-1) > 1).any()):
        return ""
    remedy = f"packing them needs pyfaspr: pip install 'edgewise[{EXTRA}]'"
    if none:
        return f"the input has no side chains, and {remedy}"
    assert given is not None
    assert given.side_chains is not None
    lacking = ~given.side_chains.complete(base.sequence).any(0)
    if not bool(lacking.any()):
        return ""
    return f"no model has a complete side chain of {labels(base, lacking)}, and {remedy}"


def nearest_models(made: Ensemble, given: Ensemble) -> Tensor:
    """(K, M) positions of the models, nearest first, by the CA-RMSD of the residues they have."""
    x, y = (e.coordinates[:, :, CA].double() for e in (made, given))
    columns = [
        aligned_rmsd(x, y[m].expand_as(x), given.mask[m].double().expand(x.shape[:2]))
        for m in range(given.num_models)
    ]
    return torch.stack(columns, dim=1).argsort(dim=1, stable=True)


def cb_alone(made: Ensemble) -> SideChains:
    """CB of every residue but glycine, and nothing beyond it."""
    side = SideChains.none(made.num_models, made.length)
    local, mask = side.local.to(made.coordinates), side.mask
    mask[..., 0] = side_chain_mask(made.sequence)[:, 0]
    local[..., 0, :] = torch.where(mask[..., :1], ideal_cb(made.coordinates, made.aatype), 0.0)
    return SideChains(local, mask)


def carried_side_chains(
    made: Ensemble, given: Ensemble, order: Tensor, relieve: bool = True
) -> SideChains:
    """Side chains of the models, in residues that are complete in one; of others CB alone.

    Args:
        made: K conformers.
        given: M models, with side chains.
        order: (K, M') positions of models, those that come first are preferred.
        relieve: exchange side chains that overlap others for those of further models, or for the
            first with χ₁ turned by a third of a turn; False takes the first complete ones.
    """
    side = given.side_chains
    assert side is not None
    complete = side.complete(given.sequence) & given.mask  # (M, L)
    wanted = side_chain_mask(made.sequence)
    beyond = torch.arange(wanted.shape[1]) > 0
    mask = (wanted & (complete.any(0)[:, None] | ~beyond)).expand(made.num_models, -1, -1)
    local = made.coordinates.new_zeros(*mask.shape, 3)
    for k, ranks in enumerate(order):
        # (P, L): of each residue the models that have it, nearest first.
        ranked = complete[ranks]
        places = (~ranked).to(torch.int64).argsort(dim=0, stable=True)[:_CANDIDATES]
        models, residues = ranks[places], torch.arange(made.length)
        backbone = made.coordinates[k].expand(len(models), -1, -1, -1)
        candidates = carried(
            side.local[models, residues].to(backbone),
            given.coordinates[models, residues].to(backbone),
            backbone,
            made.aatype,
        )
        allowed = ranked.gather(0, places)
        if relieve:
            local[k] = _relieved(made, k, candidates, allowed, mask[k])
        else:
            local[k] = candidates[0]
    return SideChains(torch.where(mask[..., None], local, torch.zeros_like(local)), mask)


def _relieved(made: Ensemble, k: int, candidates: Tensor, allowed: Tensor, mask: Tensor) -> Tensor:
    """(L, S, 3) Å: of candidates (P, L, S, 3) that are allowed (P, L), those that overlap least."""
    turned = torch.stack([turned_chi1(candidates[0], angle) for angle in (_THIRD, -_THIRD)])
    ring = made.aatype == ALPHABET.index("P")
    candidates = torch.cat([candidates, turned])
    allowed = torch.cat([allowed, (allowed[0] & ~ring).expand(2, -1)])
    backbone = made.coordinates[k].expand(len(candidates), -1, -1, -1)
    everywhere = made.mask[k].expand(len(candidates), -1)
    choice = least_overlap(
        backbone_atoms(made)[k].numpy(),
        placed(candidates, backbone, everywhere).numpy(),
        allowed.numpy(),
        mask.numpy(),
        made.sequence,
        made.chain_index.numpy(),
        np.where(np.arange(len(candidates)) < len(candidates) - len(turned), 0.0, _TURNED),
    )
    return candidates[torch.from_numpy(choice), torch.arange(made.length)]
