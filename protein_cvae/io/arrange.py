"""Residue records of models to one layout: which residues, in which order, which atoms.

Models are aligned on residue identity (chain, number, insertion code).  A residue that a model
lacks, or has without N, CA or C, is masked in that model.  Decisions taken here, each with a note
in the report: modified, terminal and unknown residues, what is no residue of the chain (waters,
ions, sugars, caps, free amino acids), order of the residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from protein_cvae.io.layout import ABSENT, Layout, collect, linked, links
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import make_whole
from protein_cvae.io.records import ModelRecords, residue_label
from protein_cvae.residues import (
    CAPS,
    IONS,
    UNKNOWN_LETTER,
    WATERS,
    cut_letters,
    is_standard,
    one_letter,
    side_chain_letter,
)


def arrange(models: Sequence[ModelRecords], path: Path, book: NoteBook) -> Layout:
    """The amino-acid residues of all models, aligned, in chains that no box cuts.

    Args:
        models: at least one, each with residues, of one numbering.
        path: the file, for messages.
        book: takes the notes.

    Raises:
        ValueError: if models disagree on a residue's kind or share no residue, or if no residue
            is an amino acid.
    """
    _note_dropped(models, book)
    found = collect(models, book)
    if not found.keys:
        raise _no_protein(found, models, path)
    boxes = np.stack([np.full((3, 3), np.nan) if m.box is None else m.box for m in models])
    found.coordinates = make_whole(found.coordinates, boxes, found.units, book)
    hetero = _hetero(found, models)
    found, hetero = _in_chain_order(found, hetero, book)
    _name_ends(found, hetero, models, book)
    atoms = np.isfinite(found.coordinates).all(-1)  # (M, L, 3)
    traits = zip(
        hetero,
        _linked_residues(found).tolist(),
        atoms.all(-1).any(0).tolist(),
        atoms.any((0, 2)).tolist(),
        strict=True,
    )
    keep = [i for i, trait in enumerate(traits) if _is_residue(found, i, _Traits(*trait), book)]
    if not keep:
        raise _no_protein(found, models, path)
    found = found.take(keep)
    shared = found.present & found.present[0]
    for m in np.flatnonzero(~shared.any(1)).tolist():
        raise UserError(
            f"{models[m].source}: model {models[m].number} shares no residue with model "
            f"{models[0].number} (first {found.label(int(np.argmax(found.present[m])))} and "
            f"{found.label(int(np.argmax(found.present[0])))}); models of one file must be of one "
            "protein with one numbering"
        )
    for m, i in np.argwhere(~found.present):
        book.add("absent residue", found.label(i), ABSENT, int(m))
    return found


def _no_protein(layout: Layout, models: Sequence[ModelRecords], path: Path) -> UserError:
    names = sorted({name for model in models for name in model.dropped} | set(layout.names))[:8]
    return UserError(
        f"{path}: no protein: none of its residues ({', '.join(names)}) is an amino acid of a "
        "chain with N, CA and C"
    )


def _note_dropped(models: Sequence[ModelRecords], book: NoteBook) -> None:
    for name in dict.fromkeys(name for model in models for name in sorted(model.dropped)):
        what = "no amino acid of a chain"
        for names, kind in ((WATERS, "water"), (IONS, "ion"), (CAPS, "cap of a chain, no residue")):
            what = kind if name in names else what
        book.add("dropped", name, what)
    for key in models[0].coded:
        name = next(iter(models[0].residues[key].variants.values())).name
        detail = "its number stands twice in the chain; code given here"
        book.add("insertion codes", residue_label(key, name), detail)


def _hetero(layout: Layout, models: Sequence[ModelRecords]) -> list[bool]:
    """Whether each residue stands in HETATM records in some model."""
    different = list({id(model.residues): model.residues for model in models}.values())
    return [any(key in one and one[key].hetero for one in different) for key in layout.keys]


def _linked_residues(layout: Layout) -> np.ndarray:
    """(L,) bool: residues linked to the one before or behind."""
    after = links(layout)
    return np.append(after, False) | np.append(False, after)


def _in_chain_order(
    layout: Layout, hetero: list[bool], book: NoteBook
) -> tuple[Layout, list[bool]]:
    """HETATM residues that a file lists behind their chain, moved to where they are bonded."""
    x = layout.coordinates
    complete = np.isfinite(x).all((2, 3)).any(0)
    bonded = _linked_residues(layout)
    order = list(range(len(layout.keys)))
    for i in np.flatnonzero(complete & np.array(hetero, dtype=bool) & ~bonded).tolist():
        chain = [j for j in order if layout.keys[j].unit == layout.keys[i].unit and j != i]
        following = [j for j in chain if linked(x[:, i], x[:, j])]
        preceding = [j for j in chain if linked(x[:, j], x[:, i])]
        if not following and not preceding:
            continue
        order.remove(i)
        place = order.index(following[0]) if following else order.index(preceding[0]) + 1
        order.insert(place, i)
        book.add("order of residues", layout.label(i), "moved to where it is bonded in the chain")
    return layout.take(order), [hetero[i] for i in order]


def _name_ends(
    layout: Layout, hetero: list[bool], models: Sequence[ModelRecords], book: NoteBook
) -> None:
    """Letters of terminal residues whose AMBER names a format has cut to three letters.

    Their side chain decides.  Without one, the name does if it can be of one amino acid alone,
    as it is cut or as the component dictionary has it; else the residue is X.
    """
    ends: dict[tuple[str, int], list[int]] = {}
    for i, key in enumerate(layout.keys):
        if not key.group:
            ends.setdefault(key.unit, []).append(i)
    for index in ends.values():
        for i, side in ((index[0], "N"), (index[-1], "C")):
            name = layout.names[i]
            choices = cut_letters(name)
            if hetero[i] or not choices or name[0] != side or is_standard(name):
                continue
            known = one_letter(name) or ""
            letters = choices if known in choices else choices + known
            record = models[int(np.argmax(layout.present[:, i]))].residues[layout.keys[i]]
            letter = side_chain_letter(record.atoms, letters)
            if letter is None:
                letter = letters if len(letters) == 1 else UNKNOWN_LETTER
            if letter != layout.letters[i]:
                layout.letters[i] = letter
                book.add(
                    "terminal residue", layout.label(i), f"a name that was cut; read as {letter}"
                )


class _Traits(NamedTuple):
    """Of a residue: in HETATM, bonded to a neighbour, N, CA and C or some of them in some model."""

    hetero: bool
    bonded: bool
    complete: bool
    some: bool


def _is_residue(layout: Layout, i: int, trait: _Traits, book: NoteBook) -> bool:
    """Whether residue i belongs to a protein chain; notes what is unusual about it."""
    hetero, bonded, complete, some = trait
    name, label, letter = layout.names[i], layout.label(i), layout.letters[i]
    known = one_letter(name) is not None
    if known and is_standard(name) and not hetero:
        return True
    if known and not is_standard(name) and some:
        if letter == one_letter(name):
            book.add("modified residue", label, f"read as {letter}")
        return True
    # What is called like a cap or an ion is a residue if it is bonded like one.
    alike = name in CAPS or name in IONS
    if complete and (bonded or not (hetero or alike)):
        if letter == UNKNOWN_LETTER:
            book.add("unknown amino acid", label, "has N, CA and C; read as X")
        return True
    free = known or complete
    book.add("dropped", name, "free amino acid, not bonded" if free else "no amino acid of a chain")
    return False
