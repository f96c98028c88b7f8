"""Coordinates of aligned residues to an :class:`Ensemble`: mask, bonds, limits, report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble, ReadReport
from protein_cvae.io.layout import Layout, median_over_models
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import BOND_RANGE, PEPTIDE_BOND
from protein_cvae.io.side_chains import local_side_chains
from protein_cvae.side_chains import SideChains

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SPLIT = 4.0  # Å; a peptide bond this long in one model was cut by the periodic box


def build_ensemble(
    layout: Layout,
    model_numbers: tuple[int, ...],
    book: NoteBook,
    *,
    path: Path,
    name: str,
    min_models: int,
    max_residues: int | None,
) -> Ensemble:
    """The ensemble of an arranged file.

    Args:
        layout: residues with (M, L, 3, 3) coordinates in Å, NaN where an atom is missing.
        model_numbers: M.
        book: notes so far; its notes end in the ensemble's report.
        path: the file, for messages and ``source``.
        name: name of the ensemble.
        min_models: fewest models accepted.
        max_residues: most residues accepted, over all chains; None for any number.

    Raises:
        ValueError: if there are too few models, too many residues, no residue complete, or a
            chain that the periodic box cuts.
    """
    models, length = layout.coordinates.shape[:2]
    if models < min_models:
        raise UserError(
            f"{path}: {models} model{'s' if models > 1 else ''} (number {model_numbers[0]}), "
            f"min_models is {min_models}; an ensemble to train on needs several"
        )
    if max_residues is not None and length > max_residues:
        raise UserError(
            f"{path}: {length} residues from {layout.label(0)} to {layout.label(length - 1)}, "
            f"max_residues is {max_residues}; raise it or cut the file into chains or domains"
        )
    backbone = complete_backbone(layout, book)
    side_chains = None
    if layout.side is not None:
        side_chains = local_side_chains(layout.side, backbone.coordinates, backbone.mask)
    return assemble(layout, backbone, model_numbers, book, path, name, side_chains)


class Backbone(NamedTuple):
    """Complete residues of some models."""

    coordinates: Tensor  # (M, L, 3, 3) float32 Å; zero where the mask is False
    mask: Tensor  # (M, L) bool
    apart: np.ndarray  # (M, L - 1) float64 Å, C to the next N; NaN where one is missing


def complete_backbone(layout: Layout, book: NoteBook) -> Backbone:
    """The residues of a layout that have N, CA and C and are whole; notes where not."""
    mask = _complete(layout, book)
    x = np.where(mask[..., None, None], layout.coordinates, 0.0).astype(np.float32)
    both = mask[:, :-1] & mask[:, 1:]  # (M, L - 1)
    steps = np.linalg.norm(layout.coordinates[:, :-1, 2] - layout.coordinates[:, 1:, 0], axis=-1)
    return Backbone(torch.from_numpy(x), torch.from_numpy(mask), np.where(both, steps, np.nan))


def assemble(
    layout: Layout,
    backbone: Backbone,
    model_numbers: tuple[int, ...],
    book: NoteBook,
    path: Path,
    name: str,
    side_chains: SideChains | None = None,
) -> Ensemble:
    """The ensemble of residues and their coordinates.

    Args:
        layout: the residues; of its coordinates none but those of the first model are looked at.
        backbone: of all M models.
        model_numbers: M.
        book: its notes end in the ensemble's report.
        path: the file, for messages and ``source``.
        name: name of the ensemble.
        side_chains: of all models.

    Raises:
        ValueError: if no residue is complete, or the periodic box cuts a chain.
    """
    if not bool(backbone.mask.any()):
        raise UserError(
            f"{path}: no residue has N, CA and C in any model (model {model_numbers[0]}, residue "
            f"{layout.label(0)}: {_missing(layout.coordinates[0, 0])}); an all-atom or backbone "
            "model is needed, CA alone is not enough"
        )
    bonded = _peptide_bonds(layout, backbone.apart, model_numbers, path, book)
    units = layout.units
    chains = list(dict.fromkeys(units))
    index = {unit: number for number, unit in enumerate(chains)}
    return Ensemble(
        name=name,
        coordinates=backbone.coordinates,
        mask=backbone.mask,
        sequence="".join(layout.letters),
        chain_index=torch.tensor([index[unit] for unit in units]),
        chain_ids=_chain_ids(chains, book),
        residue_numbers=torch.tensor([key.number for key in layout.keys]),
        insertion_codes=tuple(key.insertion for key in layout.keys),
        bonded=torch.from_numpy(bonded),
        source=str(path),
        model_numbers=model_numbers,
        report=ReadReport(book.notes()),
        side_chains=side_chains,
    )


def _complete(layout: Layout, book: NoteBook) -> np.ndarray:
    """(M, L): N, CA and C are there and can be of one residue; notes where not."""
    mask: np.ndarray = np.isfinite(layout.coordinates).all((2, 3))
    for m, i in np.argwhere(~mask & layout.present):
        detail = f"{_missing(layout.coordinates[m, i])}; masked"
        book.add("missing backbone atoms", layout.label(i), detail, int(m))
    steps = np.linalg.norm(np.diff(np.where(mask[..., None, None], layout.coordinates, 0), axis=2),
                           axis=-1)  # fmt: skip
    suspect = mask & ((steps > 2.0) | (steps < 1.0)).any(-1)
    for m, i in np.argwhere(suspect):
        fault = _geometry_fault(layout.coordinates[m, i])
        if fault:
            mask[m, i] = False
            book.add("broken residue", layout.label(i), f"{fault}; masked", int(m))
    return mask


def _geometry_fault(atoms: np.ndarray) -> str:
    """Why N, CA and C (3, 3) Å cannot be one residue's, or "" if they can."""
    low, high = BOND_RANGE
    for a, b, name in ((0, 1, "N-CA"), (1, 2, "CA-C")):
        distance = float(np.linalg.norm(atoms[a] - atoms[b]))
        if not low < distance < high:
            return f"{name} distance {distance:.2f} Å"
    return ""


def _missing(atoms: np.ndarray) -> str:
    absent = [name for name, xyz in zip(BACKBONE, atoms, strict=True) if not np.isfinite(xyz).all()]
    return f"no {', '.join(absent)}"


def _peptide_bonds(
    layout: Layout, apart: np.ndarray, numbers: tuple[int, ...], path: Path, book: NoteBook
) -> np.ndarray:
    """(L,): residue i is bonded to i + 1; a break inside a chain is noted.

    The distance decides, in the median over models, not the numbers: antibodies and proteases skip
    numbers within a chain, and consecutive numbers can stand on both sides of a break.

    Raises:
        ValueError: if a bond is that long in some model that the periodic box must have cut it.
    """
    units = layout.units
    bonded = np.zeros(len(units), dtype=bool)
    distance = median_over_models(apart)
    same = np.array([a == b for a, b in pairwise(units)], dtype=bool)
    bonded[:-1] = (distance < PEPTIDE_BOND) & same
    for i in np.flatnonzero((distance >= PEPTIDE_BOND) & same).tolist():
        detail = f"C-N {distance[i]:.2f} Å to {layout.label(i + 1)}; not bonded"
        book.add("chain break", layout.label(i), detail)
    for m, i in np.argwhere((np.nan_to_num(apart) > _SPLIT) & bonded[:-1]):
        raise UserError(
            f"{path}: frame {numbers[m]} (model {numbers[m]}), residue {layout.label(i)}: the "
            f"peptide bond to {layout.label(i + 1)} is {apart[m, i]:.1f} Å long; the chain is cut "
            "by the periodic box, and the file does not give a box that joins it: make molecules "
            "whole before writing it"
        )
    return bonded


def _chain_ids(units: list[tuple[str, int]], book: NoteBook) -> tuple[str, ...]:
    """Chain names; a blank one, or one that stands for several chains, becomes a free letter."""
    given = {chain for chain, _ in units}
    free = (letter for letter in _LETTERS if letter not in given)
    names: list[str] = []
    for chain, part in units:
        if chain and chain not in names:
            names.append(chain)
            continue
        names.append(next(free, f"{chain}{part}"))
        kind = "one identifier" if chain else "blank chain"
        of = f"chain {chain}: " if chain else ""
        book.add(kind, "", f"{of}named {names[-1]}")
    return tuple(names)
