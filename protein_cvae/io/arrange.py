"""Residue records of all models to one ensemble: which residues, in which order, which atoms.

Models are aligned on residue identity (chain, number, insertion code).  A residue that a model
lacks, or has without N, CA or C, is masked in that model.  Decisions taken here, each with a note
in the report: alternate locations, modified and unknown residues, what is no residue of the
chain (waters, ions, sugars, caps, free amino acids), order of the residues.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Note
from protein_cvae.io.altlocs import chosen_atoms, ranked_locations
from protein_cvae.io.records import ModelRecords, ResidueKey, residue_label
from protein_cvae.residues import CAPS, UNKNOWN_LETTER, WATERS, is_standard, one_letter

PEPTIDE_BOND = 2.0  # Å; a C-N bond has 1.33, the nearest contact without one about 2.8
_BOND_RANGE = (0.8, 2.3)  # Å; N-CA and CA-C outside it are no bond of one residue


class NoteBook:
    """Collects notes; what holds in every model becomes one note."""

    def __init__(self, model_numbers: tuple[int, ...]) -> None:
        self._numbers = model_numbers
        self._notes: dict[tuple[str, str, str], list[int]] = {}

    def add(self, kind: str, residue: str, detail: str, model: int | None = None) -> None:
        """Add a note for the model at this position, or for all."""
        models = self._notes.setdefault((kind, residue, detail), [])
        models.extend(range(len(self._numbers)) if model is None else [model])

    def notes(self) -> tuple[Note, ...]:
        """The notes, in the order in which their kind and residue first came up."""
        found = []
        for (kind, residue, detail), models in self._notes.items():
            if len(set(models)) == len(self._numbers):
                found.append(Note(kind, None, residue, detail))
            else:
                found += [Note(kind, self._numbers[m], residue, detail) for m in models]
        return tuple(found)


@dataclass
class Layout:
    """The residues of an ensemble and where their atoms are.

    Attributes:
        keys: L residues, chain by chain, in order along the chain.
        names: L residue names of the file.
        letters: L letters, X for an unknown amino acid.
        coordinates: (M, L, 3, 3) float64 Å, NaN where an atom is missing.
        present: (M, L) bool, the model has a residue with this identity.
    """

    keys: list[ResidueKey]
    names: list[str]
    letters: list[str]
    coordinates: np.ndarray
    present: np.ndarray

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
        )


def arrange(models: list[ModelRecords], path: Path, book: NoteBook) -> Layout:
    """The amino-acid residues of all models, aligned.

    Args:
        models: at least one, each with residues.
        path: the file, for messages.
        book: takes the notes.

    Raises:
        ValueError: if models disagree on a residue's kind or share no residue, or if no residue
            is an amino acid.
    """
    found = _collect(_merged_order(models), models, path, book)
    found = _in_chain_order(found, models, book)
    keep = [i for i in range(len(found.keys)) if _is_residue(found, i, models, book)]
    if not keep:
        names = sorted(set(found.names))[:8]
        raise UserError(
            f"{path}: no protein: none of its {len(found.keys)} residues ({', '.join(names)}) is "
            "an amino acid with N, CA and C"
        )
    found = found.take(keep)
    shared = found.present & found.present[0]
    for m in np.flatnonzero(~shared.any(1)):
        raise UserError(
            f"{path}: model {models[m].number} shares no residue with model {models[0].number} "
            f"(first {found.label(int(np.argmax(found.present[m])))} and "
            f"{found.label(int(np.argmax(found.present[0])))}); models of one file must be of one "
            "protein with one numbering"
        )
    for m, i in np.argwhere(~found.present):
        book.add("absent residue", found.label(i), "not in this model; masked", int(m))
    return found


def _by_chain(model: ModelRecords) -> dict[str, list[ResidueKey]]:
    chains: dict[str, list[ResidueKey]] = {}
    for key in model.residues:
        chains.setdefault(key.chain, []).append(key)
    return chains


def _merged_order(models: list[ModelRecords]) -> list[ResidueKey]:
    """Residues of all models, chains together; one the first models lack follows its neighbour."""
    chains: dict[str, list[ResidueKey]] = {}
    seen: set[ResidueKey] = set()
    for model in models:
        for chain, keys in _by_chain(model).items():
            order = chains.setdefault(chain, [])
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
    return [key for order in chains.values() for key in order]


def _collect(
    keys: list[ResidueKey], models: list[ModelRecords], path: Path, book: NoteBook
) -> Layout:
    names, letters = [], []
    coordinates = np.full((len(models), len(keys), 3, 3), np.nan)
    present = np.zeros((len(models), len(keys)), dtype=bool)
    for i, key in enumerate(keys):
        ranking = ranked_locations(models, key)
        name, letter = "", None
        for m, model in enumerate(models):
            record = model.residues.get(key)
            if record is None:
                continue
            own, atoms, location = chosen_atoms(record, ranking)
            if name and one_letter(own) != letter:
                raise UserError(
                    f"{path}: model {model.number}, residue {residue_label(key, own)}: an earlier "
                    f"model has {name} there; models of one file must have one sequence"
                )
            if not name:
                name, letter = own, one_letter(own)
            present[m, i] = True
            for a, atom in enumerate(BACKBONE):
                if atom in atoms:
                    coordinates[m, i, a] = atoms[atom]
            if location:
                others = ", ".join(f"{k} {v:.2f}" for k, v in ranking.items())
                detail = f"{location} taken of {others} (summed occupancy)"
                book.add("alternate locations", residue_label(key, own), detail, m)
        names.append(name)
        letters.append(letter or UNKNOWN_LETTER)
    return Layout(keys, names, letters, coordinates, present)


def linked(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether C of ``first`` (M, 3, 3) is bonded to N of ``second``, in the median over models."""
    distances = np.linalg.norm(first[:, 2] - second[:, 0], axis=-1)
    distances = distances[np.isfinite(distances)]
    return bool(distances.size) and float(np.median(distances)) < PEPTIDE_BOND


def _hetero(layout: Layout, i: int, models: list[ModelRecords]) -> bool:
    key = layout.keys[i]
    return any(model.residues[key].hetero for model in models if key in model.residues)


def _neighbours(layout: Layout, i: int) -> list[tuple[int, int]]:
    """(i - 1, i) and (i, i + 1) where both are residues of one chain."""
    pairs = [(i - 1, i), (i, i + 1)]
    length = len(layout.keys)
    return [
        (a, b)
        for a, b in pairs
        if a >= 0 and b < length and layout.keys[a].chain == layout.keys[b].chain
    ]


def _is_linked(layout: Layout, i: int) -> bool:
    x = layout.coordinates
    return any(linked(x[:, a], x[:, b]) for a, b in _neighbours(layout, i))


def _in_chain_order(layout: Layout, models: list[ModelRecords], book: NoteBook) -> Layout:
    """HETATM residues that a file lists behind their chain, moved to where they are bonded."""
    x = layout.coordinates
    order = list(range(len(layout.keys)))
    for i in range(len(layout.keys)):
        complete = bool(np.isfinite(x[:, i]).all((1, 2)).any())
        if not complete or not _hetero(layout, i, models) or _is_linked(layout, i):
            continue
        chain = [j for j in order if layout.keys[j].chain == layout.keys[i].chain and j != i]
        following = [j for j in chain if linked(x[:, i], x[:, j])]
        preceding = [j for j in chain if linked(x[:, j], x[:, i])]
        if not following and not preceding:
            continue
        order.remove(i)
        place = order.index(following[0]) if following else order.index(preceding[0]) + 1
        order.insert(place, i)
        book.add("order of residues", layout.label(i), "moved to where it is bonded in the chain")
    return layout.take(order)


def _is_residue(layout: Layout, i: int, models: list[ModelRecords], book: NoteBook) -> bool:
    """Whether residue i belongs to a protein chain; notes what is unusual about it."""
    name, label = layout.names[i], layout.label(i)
    atoms = np.isfinite(layout.coordinates[:, i]).all(-1)
    complete, some = bool(atoms.all(-1).any()), bool(atoms.any())
    letter = one_letter(name)
    if name in WATERS or name in CAPS:
        book.add("dropped", name, "water" if name in WATERS else "cap of a chain, no residue")
        return False
    hetero = _hetero(layout, i, models)
    if letter is not None and is_standard(name) and not hetero:
        return True
    if letter is not None and not is_standard(name) and some:
        book.add("modified residue", label, f"read as {letter}")
        return True
    if complete and (not hetero or _is_linked(layout, i)):
        if letter is None:
            book.add("unknown amino acid", label, "has N, CA and C; read as X")
        return True
    what = "no amino acid of a chain" if letter is None else "free amino acid, not bonded"
    book.add("dropped", name, what)
    return False


def residue_geometry_fault(atoms: np.ndarray) -> str:
    """Why N, CA and C (3, 3) Å cannot be one residue's, or "" if they can."""
    low, high = _BOND_RANGE
    for a, b, name in ((0, 1, "N-CA"), (1, 2, "CA-C")):
        distance = float(np.linalg.norm(atoms[a] - atoms[b]))
        if not low < distance < high:
            return f"{name} distance {distance:.2f} Å"
    return ""
