"""Models that number their residues otherwise than the first ones, put beside them.

Models whose numbers mean the same are arranged together (:mod:`protein_cvae.io.arrange`).  Others
are arranged by themselves, and their residues matched with those of the first models chain by chain
(:mod:`protein_cvae.io.matching`): they take their places, names and numbers.  What a model lacks is
masked there.  A residue that the first models lack, a mutated one included, has no place: it is
refused, or left out with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import LEFT_OUT
from protein_cvae.io.layout import ABSENT, Layout
from protein_cvae.io.matching import (
    ALIGNMENT,
    Pairs,
    Place,
    Residues,
    common_residues,
    only_one_has,
    same_numbers,
)
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.records import ModelRecords, ResidueRecord, residue_label
from protein_cvae.residues import UNKNOWN_LETTER, one_letter

_Unit = tuple[str, int]


def numbered_alike(models: Sequence[ModelRecords]) -> list[list[int]]:
    """Positions of models whose residue numbers mean the same, group by group.

    A model belongs to a group if they have a chain in common, and the numbers of all such chains
    mean the same (:func:`~protein_cvae.io.matching.same_numbers`).
    """
    groups: list[list[int]] = []
    known: list[dict[_Unit, dict[tuple[int, str], Place]]] = []  # of each group
    of_records: dict[int, int] = {}  # models of the same atoms share theirs
    for m, model in enumerate(models):
        group = of_records.get(id(model.residues))
        if group is None:
            chains = _places(model)
            group = next((g for g, these in enumerate(known) if _alike(these, chains)), len(known))
            if group == len(known):
                known.append({})
                groups.append([])
            for unit, places in chains.items():
                of_unit = known[group].setdefault(unit, {})
                for number, place in places.items():
                    if number not in of_unit or of_unit[number].letter == UNKNOWN_LETTER:
                        of_unit[number] = place
            of_records[id(model.residues)] = group
        groups[group].append(m)
    return groups


def _places(model: ModelRecords) -> dict[_Unit, dict[tuple[int, str], Place]]:
    """The residues of each chain by number and insertion code."""
    chains: dict[_Unit, dict[tuple[int, str], Place]] = {}
    for key, record in model.residues.items():
        if not key.group:
            place = Place(key.number, key.insertion, _letter(record))
            chains.setdefault(key.unit, {})[place[:2]] = place
    return chains


def _letter(record: ResidueRecord) -> str:
    """X where the alternate locations are different amino acids."""
    letters = {one_letter(variant.name) for variant in record.variants.values()}
    return (letters.pop() if len(letters) == 1 else None) or UNKNOWN_LETTER


def _alike(
    known: dict[_Unit, dict[tuple[int, str], Place]],
    chains: dict[_Unit, dict[tuple[int, str], Place]],
) -> bool:
    both = known.keys() & chains.keys()
    return bool(both) and all(
        same_numbers(list(known[unit].values()), list(chains[unit].values())) is not None
        for unit in both
    )


@dataclass(frozen=True)
class Part:
    """Models that are arranged: the positions, the first of them, and the residues."""

    models: list[int]
    first: ModelRecords
    layout: Layout

    @property
    def source(self) -> str:
        """File and model, for messages."""
        return f"{self.first.source} (model {self.first.number})"


def join(parts: Sequence[Part], drop: bool, book: NoteBook) -> Layout:
    """The residues of all models, in the places of those of the first part.

    Args:
        parts: whose models are all models together.
        drop: leave out residues that have no place there; False refuses them.
        book: about all models; takes the notes.

    Raises:
        ValueError: if chains do not agree, parts have hardly a residue in common, or a residue has
            no place and ``drop`` is off; names files and residues.
    """
    first, source, file = parts[0].layout, parts[0].source, parts[0].first.source.name
    placed: list[Pairs] = [[(i, i) for i in range(len(first.keys))]]
    for part in parts[1:]:
        other = part.layout
        chains = _paired_chains(first, other, source, part.source)
        one = _residues(first, source, [unit for unit, _ in chains])
        two = _residues(other, part.source, [unit for _, unit in chains])
        pairs, ways = common_residues(one, two)
        alone = two.without(j for _, j in pairs)
        if alone and not drop:
            raise only_one_has(one, two, pairs, ways)
        part_book = book.of(part.models)
        for (unit, theirs), way in zip(chains, ways, strict=True):
            if unit != theirs:
                detail = f"called {unit[0] or '-'}, as the one in its place in {file}"
                part_book.add("name of a chain", f"chain {theirs[0] or '-'}", detail)
            if way == ALIGNMENT:
                detail = f"its numbers do not mean the same as in {file}; named by that"
                part_book.add("matched by sequence alignment", f"chain {unit[0] or '-'}", detail)
        called = {theirs: ours[0] for ours, theirs in chains}
        for j in alone:
            key = other.keys[j]
            label = residue_label(key._replace(chain=called[key.unit]), other.names[j])
            part_book.add(LEFT_OUT, label, f"of {part.first.source.name}")
        first, further = _with_chains(first, other, {unit for _, unit in chains})
        placed.append(pairs + further)
    return _filled(first, parts, placed, book)


def _paired_chains(first: Layout, second: Layout, one: str, two: str) -> list[tuple[_Unit, _Unit]]:
    """Chains of one name, or, where no name is the same, those in the same position.

    Raises:
        ValueError: if no name is the same and they are not as many.
    """
    ours, theirs = (list(dict.fromkeys(layout.units)) for layout in (first, second))
    named = [(unit, unit) for unit in ours if unit in theirs]
    if named or len(ours) == len(theirs):
        return named or list(zip(ours, theirs, strict=True))
    a, b = (", ".join(name or "-" for name, _ in units) for units in (ours, theirs))
    raise UserError(f"{one} has chains {a} and {two} has {b}; give chains the same names")


def _residues(layout: Layout, source: str, units: Sequence[_Unit]) -> Residues:
    chains: dict[_Unit, list[int]] = {unit: [] for unit in units}
    for i, unit in enumerate(layout.units):
        if unit in chains:
            chains[unit].append(i)
    rows = zip(layout.keys, layout.letters, strict=True)
    places = [Place(key.number, key.insertion, letter) for key, letter in rows]
    return Residues(source, list(chains.values()), places, layout.label)


def _with_chains(first: Layout, second: Layout, known: set[_Unit]) -> tuple[Layout, Pairs]:
    """``first`` with the chains of ``second`` that are not ``known``, and where they stand."""
    more = [j for j, unit in enumerate(second.units) if unit not in known]
    size = len(first.keys)
    models, added = len(first.coordinates), len(more)
    longer = Layout(
        first.keys + [second.keys[j] for j in more],
        first.names + [second.names[j] for j in more],
        first.letters + [second.letters[j] for j in more],
        np.concatenate([first.coordinates, np.full((models, added, 3, 3), np.nan)], axis=1),
        np.concatenate([first.present, np.zeros((models, added), dtype=bool)], axis=1),
        np.concatenate([first.rows, np.full((added, 3), -1, dtype=first.rows.dtype)]),
    )
    if first.side is not None:
        blank = np.full((models, added, *first.side.shape[2:]), np.nan)
        longer.side = np.concatenate([first.side, blank], axis=1)
    return longer, [(size + i, j) for i, j in enumerate(more)]


def _filled(
    first: Layout, parts: Sequence[Part], placed: Sequence[Pairs], book: NoteBook
) -> Layout:
    """Coordinates of all models in their places; notes on residues that a part lacks."""
    count, length = sum(len(part.models) for part in parts), len(first.keys)
    coordinates = np.full((count, length, 3, 3), np.nan)
    present = np.zeros((count, length), dtype=bool)
    side = None if first.side is None else np.full((count, length, *first.side.shape[2:]), np.nan)
    for part, pairs in zip(parts, placed, strict=True):
        ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        at = np.ix_(part.models, ours)
        coordinates[at] = part.layout.coordinates[:, theirs]
        present[at] = part.layout.present[:, theirs]
        if side is not None and part.layout.side is not None:
            side[at] = part.layout.side[:, theirs]
        for i in sorted(set(range(length)) - set(ours)):
            book.of(part.models).add("absent residue", first.label(i), ABSENT)
    return Layout(first.keys, first.names, first.letters, coordinates, present, first.rows, side)
