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
        rows: (L, 3) int64, N, CA and C in the atom table of the first model; below 0 for
            none.
        side: (M, L, S, 3) float64 Å, side-chain atoms from CA, NaN where one is missing; None
            where they are not read.
    """

    keys: list[ResidueKey]
    names: list[str]
    letters: list[str]
    coordinates: np.ndarray
    present: np.ndarray
    rows: np.ndarray
    side: np.ndarray | None = None

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
            None if self.side is None else self.side[:, index],
        )


def collect(models: Sequence[ModelRecords], book: NoteBook) -> Layout:
    """The recorded residues of all models, aligned on their identity.

    Raises:
        ValueError: if models disagree on a residue's kind.
    """
    keys = _merged_order(models)
    groups: dict[int, list[int]] = {}  # models that share their records
    for m, model in enumerate(models):
        groups.setdefault(id(model.residues), []).append(m)
    firsts = [members[0] for members in groups.values()]
    names, letters = [""] * len(keys), [UNKNOWN_LETTER] * len(keys)
    rows = np.full((len(models), len(keys), 3), -1, dtype=np.int64)
    for i, key in enumerate(keys):
        ranking = ranked_locations(models, key)
        for m in firsts:
            record = models[m].residues.get(key)
            if record is None:
                continue
            own, atoms, location = chosen_atoms(record, ranking)
            if not names[i]:
                names[i], letters[i] = own, one_letter(own) or UNKNOWN_LETTER
            elif own != names[i] and (one_letter(own) or UNKNOWN_LETTER) != letters[i]:
                if UNKNOWN_LETTER not in (letters[i], one_letter(own) or UNKNOWN_LETTER):
                    raise UserError(
                        f"{models[m].source}: model {models[m].number}, residue "
                        f"{residue_label(key, own)}: an earlier model has {names[i]} there; "
                        "alternate locations must be of the same amino acids in all models"
                    )
                if letters[i] == UNKNOWN_LETTER:
                    names[i], letters[i] = own, one_letter(own) or UNKNOWN_LETTER
                detail = f"{UNKNOWN_LETTER} in some model; read as {letters[i]}"
                book.add("unknown amino acid", residue_label(key, names[i]), detail)
            rows[m, i] = [atoms.get(atom, _NO_ATOM) for atom in BACKBONE]
            if ranking:
                others = ", ".join(f"{k or 'none'} {v:.2f}" for k, v in ranking.items())
                detail = f"{location or 'none'} taken of {others} (summed occupancy)"
                for member in groups[id(models[m].residues)]:
                    book.add("alternate locations", residue_label(key, own), detail, member)
    for members in groups.values():
        rows[members] = rows[members[0]]
    present = (rows != -1).any(-1)
    coordinates = np.stack([_positions(r, m.xyz) for r, m in zip(rows, models, strict=True)])
    return Layout(keys, names, letters, coordinates, present, rows[0])


ABSENT = "not in this model; masked"
_NO_ATOM = -2  # of a residue that is there; -1 of one that is not


def _positions(rows: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """(L, 3, 3) Å, NaN for rows below 0."""
    found: np.ndarray = np.where((rows >= 0)[..., None], xyz[np.maximum(rows, 0)], np.nan)
    return found


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
    found = median_over_models(apart) < PEPTIDE_BOND
    same = [a == b for a, b in pairwise(layout.units)]
    return found & np.array(same, dtype=bool)


def median_over_models(values: np.ndarray) -> np.ndarray:
    """(N,) median of (M, N) over the models that have a value; NaN where none has."""
    finite = np.isfinite(values)
    found = np.full(values.shape[1], np.nan)
    every, some = finite.all(0), finite.any(0)
    found[every] = np.median(values[:, every], axis=0)
    rest = some & ~every
    if rest.any():
        found[rest] = np.nanmedian(values[:, rest], axis=0)
    return found
