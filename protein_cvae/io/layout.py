"""Residues of all models side by side: in which order, and where their atoms are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.altlocs import chosen_atoms, ranked_locations
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import PEPTIDE_BOND
from protein_cvae.io.records import ModelRecords, ResidueKey, residue_label
from protein_cvae.residues import UNKNOWN_LETTER, one_letter


@dataclass
class Layout:
    """The residues of an ensemble and where their atoms are.

    Attributes:
        keys: L residues, chain by chain, in order along the chain.
        names: L residue names of the file.
        letters: L letters, X for an unknown amino acid.
        coordinates: (M, L, 3, 3) float64 Å, NaN where an atom is missing.
        present: (M, L) bool, the model has a residue with this identity.
        rows: (L, 3) int64, N, CA and C in the atom table of the first model; -1 for none.
    """

    keys: list[ResidueKey]
    names: list[str]
    letters: list[str]
    coordinates: np.ndarray
    present: np.ndarray
    rows: np.ndarray

    @property
    def units(self) -> list[tuple[str, int]]:
        """Chain of each residue."""
        return [key.unit for key in self.keys]

    def label(self, i: int) -> str:
        """Chain, name and number of residue i, as in the file."""
        return residue_label(self.keys[i], self.names[i])

    def take(self, index: list[int]) -> Layout:
        """These residues, in this order."""
        return Layout(
            [self.keys[i] for i in index],
            [self.names[i] for i in index],
            [self.letters[i] for i in index],
            self.coordinates[:, index],
            self.present[:, index],
            self.rows[index],
        )


def collect(models: Sequence[ModelRecords], book: NoteBook) -> Layout:
    """The recorded residues of all models, aligned on their identity.

    Raises:
        ValueError: if models disagree on a residue's kind.
    """
    keys = _merged_order(models)
    names, letters = [], []
    rows = np.full((len(models), len(keys), 3), -1, dtype=np.int64)
    present = np.zeros((len(models), len(keys)), dtype=bool)
    for i, key in enumerate(keys):
        ranking = ranked_locations(models, key)
        name, letter = "", None
        for m, model in enumerate(models):
            record = model.residues.get(key)
            if record is None:
                continue
            own, atoms, location = chosen_atoms(record, ranking)
            if name and own != name and one_letter(own) != letter:
                raise UserError(
                    f"{model.source}: model {model.number}, residue {residue_label(key, own)}: an "
                    f"earlier model has {name} there; models of one file must have one sequence"
                )
            if not name:
                name, letter = own, one_letter(own)
            present[m, i] = True
            for a, atom in enumerate(BACKBONE):
                rows[m, i, a] = atoms.get(atom, -1)
            if ranking:
                others = ", ".join(f"{k or 'none'} {v:.2f}" for k, v in ranking.items())
                detail = f"{location or 'none'} taken of {others} (summed occupancy)"
                book.add("alternate locations", residue_label(key, own), detail, m)
        names.append(name)
        letters.append(letter or UNKNOWN_LETTER)
    coordinates = np.stack(
        [np.where((r >= 0)[..., None], model.xyz[r], np.nan)
         for r, model in zip(rows, models, strict=True)]
    )  # fmt: skip
    return Layout(keys, names, letters, coordinates, present, rows[0])


def _merged_order(models: Sequence[ModelRecords]) -> list[ResidueKey]:
    """Residues of all models, chains together; one the first models lack follows its neighbour."""
    chains: dict[tuple[str, int], list[ResidueKey]] = {}
    seen: set[ResidueKey] = set()
    for model in models:
        if model.residues.keys() <= seen:
            continue
        of_chain: dict[tuple[str, int], list[ResidueKey]] = {}
        for key in model.residues:
            of_chain.setdefault(key.unit, []).append(key)
        for unit, keys in of_chain.items():
            order = chains.setdefault(unit, [])
            if not order:
                order.extend(keys)
            else:
                _insert(order, keys, seen)
            seen.update(keys)
    return [key for order in chains.values() for key in order]


def _insert(order: list[ResidueKey], keys: list[ResidueKey], seen: set[ResidueKey]) -> None:
    for i, key in enumerate(keys):
        if key in seen:
            continue
        if i > 0:
            place = order.index(keys[i - 1]) + 1
        else:
            following = next((k for k in keys if k in seen), None)
            place = len(order) if following is None else order.index(following)
        order.insert(place, key)
        seen.add(key)


def linked(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether C of ``first`` (M, 3, 3) is bonded to N of ``second``, in the median over models."""
    distances = np.linalg.norm(first[:, 2] - second[:, 0], axis=-1)
    distances = distances[np.isfinite(distances)]
    return bool(distances.size) and float(np.median(distances)) < PEPTIDE_BOND


def links(layout: Layout) -> np.ndarray:
    """(L - 1,) bool: each residue is linked to the next, of the same chain."""
    x = layout.coordinates
    apart = np.linalg.norm(x[:, :-1, 2] - x[:, 1:, 0], axis=-1)  # (M, L - 1)
    found = np.zeros(apart.shape[1], dtype=bool)
    some = np.isfinite(apart).any(0)
    found[some] = np.nanmedian(apart[:, some], axis=0) < PEPTIDE_BOND
    same = [a == b for a, b in pairwise(layout.units)]
    return found & np.array(same, dtype=bool)
