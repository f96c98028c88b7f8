"""Side-chain atoms of a file: which rows of its atom tables they are, and where they stand.

Of a residue that has alternate locations, the atoms of that location are taken which its backbone
is taken from, with those that have none.  Names are those of the residue's letter
(:func:`~protein_cvae.residues.side_chain_slot`): what a modified residue has beyond its parent is
left out.  An atom that is bonded to no other of its residue is missing: it has no coordinates, or
wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protein_cvae.geometry.frames import residue_frames, to_local
from protein_cvae.io.altlocs import chosen_atoms, ranked_locations
from protein_cvae.io.atoms import usable_box
from protein_cvae.io.layout import Layout
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import nearest_image
from protein_cvae.io.records import ModelRecords
from protein_cvae.residues import SIDE_CHAIN_SLOTS, SIDE_CHAINS, side_chain_slot
from protein_cvae.side_chains import SideChains

_BOND = (0.9, 2.2)  # Å; C-C has 1.5, C-Se 1.95
_RESIDUES = 20_000  # whose distances are taken at once


def side_chain_vectors(
    layout: Layout, models: Sequence[ModelRecords], book: NoteBook
) -> np.ndarray:
    """(M, L, S, 3) Å, side-chain atoms from CA; NaN where one is missing.

    Args:
        layout: residues of these models.
        models: M.
        book: takes a note on each residue of which a part is missing.
    """
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # models of the same atoms share theirs
    found = np.full((len(models), len(layout.keys), SIDE_CHAIN_SLOTS, 3), np.nan)
    for m, model in enumerate(models):
        shared = id(model.residues)
        if shared not in rows:
            rows[shared] = side_chain_rows(layout, models, m)
        found[m] = from_ca(model.xyz[None], *rows[shared], model.box)[0]
    return bonded_atoms(found, layout, book)


def side_chain_rows(
    layout: Layout, models: Sequence[ModelRecords], m: int
) -> tuple[np.ndarray, np.ndarray]:
    """(L,) rows of CA and (L, S) of the side-chain atoms in the table of a model; -1 for none."""
    model, length = models[m], len(layout.keys)
    ca = np.full(length, -1, dtype=np.int64)
    side = np.full((length, SIDE_CHAIN_SLOTS), -1, dtype=np.int64)
    for i, (key, letter) in enumerate(zip(layout.keys, layout.letters, strict=True)):
        record = model.residues.get(key)
        if record is None:
            continue
        _, atoms, location = chosen_atoms(record, ranked_locations(models, key))
        ca[i] = atoms.get("CA", -1)
        for start, stop in record.spans:
            for row in range(start, stop):
                own = model.altlocs[row].decode("latin-1")
                slot = side_chain_slot(letter, model.names[row].decode("latin-1").strip())
                if slot is not None and (own == location or (not own and side[i, slot] < 0)):
                    side[i, slot] = row
    return ca, side


def from_ca(
    xyz: np.ndarray, ca: np.ndarray, side: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
    """(F, L, S, 3) vectors from CA to the nearest image of each atom; NaN for rows below 0.

    Args:
        xyz: (F, A, 3) Å.
        ca: (L,) rows.
        side: (L, S) rows.
        box: (3, 3) Å, or None.
    """
    there = (ca[:, None] >= 0) & (side >= 0)
    apart = xyz[:, np.maximum(side, 0)] - xyz[:, np.maximum(ca, 0)][:, :, None]
    found: np.ndarray = np.where(there[..., None], apart, np.nan)
    return nearest_image(found, box if usable_box(box) else None)


def bonded_atoms(side: np.ndarray, layout: Layout, book: NoteBook) -> np.ndarray:
    """Side chains (M, L, S, 3) from CA without the atoms that are bonded to none of their residue.

    Args:
        side: in the order of ``layout``, whose N, CA and C are those of the same models.
        layout: residues.
        book: takes a note on each residue of which a part is missing.
    """
    x = layout.coordinates
    chosen = np.argwhere(np.isfinite(side).any((2, 3)))  # of a backbone alone, none
    there = np.zeros(side.shape[:3], dtype=bool)
    for first in range(0, len(chosen), _RESIDUES):
        m, i = chosen[first : first + _RESIDUES].T
        atoms = np.concatenate([x[m, i] - x[m, i, 1:2], side[m, i]], axis=1)  # (R, 3 + S, 3)
        apart = np.linalg.norm(atoms[:, :, None] - atoms[:, None], axis=-1)
        apart[:, np.arange(apart.shape[1]), np.arange(apart.shape[1])] = np.nan
        nearest = np.nan_to_num(apart, nan=np.inf).min(axis=-1)
        there[m, i] = ((nearest > _BOND[0]) & (nearest < _BOND[1]))[:, 3:]
    found: np.ndarray = np.where(there[..., None], side, np.nan)
    counts = there.sum(-1)
    for m, i in np.argwhere((counts > 0) & layout.present):
        names = SIDE_CHAINS[layout.letters[i]]
        if counts[m, i] < len(names):
            lacking = ", ".join(name for s, name in enumerate(names) if not there[m, i, s])
            book.add("incomplete side chain", layout.label(i), f"no {lacking}", int(m))
    return found


def local_side_chains(side: np.ndarray, coordinates: Tensor, mask: Tensor) -> SideChains:
    """Side chains in the frames of their residues.

    Args:
        side: (M, L, S, 3) Å from CA, NaN where an atom is missing.
        coordinates: (M, L, 3, 3) Å.
        mask: (M, L) bool, residue present; of others no atom is.
    """
    vectors = torch.from_numpy(side)
    there = torch.isfinite(vectors).all(-1) & mask[..., None]
    vectors = torch.where(there[..., None], vectors, torch.zeros_like(vectors)).to(coordinates)
    rotation, origin = residue_frames(coordinates, mask)
    return SideChains(to_local(vectors, rotation, torch.zeros_like(origin)), there)
