"""Coordinates of aligned residues to an :class:`Ensemble`: mask, bonds, limits, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble, ReadReport
from protein_cvae.io.arrange import (
    PEPTIDE_BOND,
    Layout,
    NoteBook,
    residue_geometry_fault,
)

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        ValueError: if there are too few models, too many residues, or no residue complete.
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
    mask = _complete(layout, book)
    if not mask.any():
        raise UserError(
            f"{path}: no residue has N, CA and C in any model (model {model_numbers[0]}, residue "
            f"{layout.label(0)}: {_missing(layout.coordinates[0, 0])}); an all-atom or backbone "
            "model is needed, CA alone is not enough"
        )
    bonded = _peptide_bonds(layout, mask, book)
    chains = list(dict.fromkeys(key.chain for key in layout.keys))
    coordinates = np.where(mask[..., None, None], layout.coordinates, 0.0).astype(np.float32)
    return Ensemble(
        name=name,
        coordinates=torch.from_numpy(coordinates),
        mask=torch.from_numpy(mask),
        sequence="".join(layout.letters),
        chain_index=torch.tensor([chains.index(key.chain) for key in layout.keys]),
        chain_ids=_chain_ids(chains, book),
        residue_numbers=torch.tensor([key.number for key in layout.keys]),
        insertion_codes=tuple(key.insertion for key in layout.keys),
        bonded=torch.from_numpy(bonded),
        source=str(path),
        model_numbers=model_numbers,
        report=ReadReport(book.notes()),
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
        fault = residue_geometry_fault(layout.coordinates[m, i])
        if fault:
            mask[m, i] = False
            book.add("broken residue", layout.label(i), f"{fault}; masked", int(m))
    return mask


def _missing(atoms: np.ndarray) -> str:
    absent = [name for name, xyz in zip(BACKBONE, atoms, strict=True) if not np.isfinite(xyz).all()]
    return f"no {', '.join(absent)}"


def _peptide_bonds(layout: Layout, mask: np.ndarray, book: NoteBook) -> np.ndarray:
    """(L,): residue i is bonded to i + 1; a break inside a chain is noted.

    The distance decides, not the numbers: antibodies and proteases skip numbers within a chain,
    and consecutive numbers can stand on both sides of a break.
    """
    length = len(layout.keys)
    bonded = np.zeros(length, dtype=bool)
    for i in range(length - 1):
        if layout.keys[i].chain != layout.keys[i + 1].chain:
            continue
        both = mask[:, i] & mask[:, i + 1]
        if not both.any():
            continue
        carbon, nitrogen = layout.coordinates[both, i, 2], layout.coordinates[both, i + 1, 0]
        distance = float(np.median(np.linalg.norm(carbon - nitrogen, axis=-1)))
        bonded[i] = distance < PEPTIDE_BOND
        if not bonded[i]:
            detail = f"C-N {distance:.2f} Å to {layout.label(i + 1)}; not bonded"
            book.add("chain break", layout.label(i), detail)
    return bonded


def _chain_ids(chains: list[str], book: NoteBook) -> tuple[str, ...]:
    """Chain names; a blank one becomes the first free letter."""
    free = (letter for letter in _LETTERS if letter not in chains)
    named = [chain or next(free) for chain in chains]
    for old, new in zip(chains, named, strict=True):
        if not old:
            book.add("blank chain", "", f"named {new}")
    return tuple(named)
