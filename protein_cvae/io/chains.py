"""Which residues of a model form one chain, where identifiers do not say it.

A chain ends where two residues that follow each other under one identifier are not bonded *and* the
file gives a sign of an end between them: TER, another segment, a number that goes back, atoms of a
C-terminus, or its list of bonds.  What follows is another chain where the chain has no identifier,
where its numbers stood before, or go back behind TER; otherwise it belongs to the chain that its
identifier names, which then has a break.  Residues that are bonded to an earlier stretch belong to
that one.  Distances are those to the nearest periodic image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from protein_cvae.io.atoms import usable_box
from protein_cvae.io.periodic import PEPTIDE_BOND, nearest_image
from protein_cvae.residues import one_letter

_SAME_PLACE = 3.0  # Å; CA of two chains are further apart


class Member(NamedTuple):
    """What decides of a residue.

    Attributes:
        chain, segment: identifiers, "" for none.
        piece: another number behind every end of a chain that the file states.
        number, insertion, name: of the residue.
        rows: of N, CA and C in the atom table; -1 for none.
        locations: its alternate locations, "" among them for atoms without.
        terminal: it has the oxygens of a C-terminus.
    """

    chain: str
    segment: str
    piece: int
    number: int
    insertion: str
    name: str
    rows: tuple[int, int, int]
    locations: frozenset[str]
    terminal: bool

    @property
    def place(self) -> tuple[int, str]:
        return self.number, self.insertion

    @property
    def label(self) -> str:
        return f"{self.chain or '-'} {self.name or '?'} {self.number}{self.insertion}"


@dataclass(frozen=True, eq=False)
class Division:
    """Chains of a model.

    Attributes:
        parts: one number for each residue, 0 for the first chain of its identifier.
        alone: it stands by itself, bonded to nothing, among others of its identifier.
    """

    parts: list[int]
    alone: list[bool]


def divide(
    members: Sequence[Member],
    xyz: np.ndarray,
    box: np.ndarray | None,
    bonded: frozenset[int] | None,
    where: str,
) -> Division:
    """Divide the residues of a model into chains.

    Args:
        members: in file order.
        xyz: (A, 3) Å.
        box: (3, 3) Å, or None.
        bonded: atoms C bonded to an N, by row; None to go by distance.
        where: file and model, for messages.

    Raises:
        ValueError: if a residue is given twice in the same place.
    """
    geometry = _Geometry(members, xyz, box if usable_box(box) else None, bonded)
    parts, alone = [0] * len(members), [False] * len(members)
    chains: dict[str, list[int]] = {}
    for i, member in enumerate(members):
        chains.setdefault(member.chain, []).append(i)
    for index in chains.values():
        runs = _runs(members, index, geometry)
        if len(runs) == 1:
            continue
        for part, run, lonely in _assigned(members, runs, geometry, where):
            for i in run:
                parts[i], alone[i] = part, lonely
    return Division(parts, alone)


class _Geometry:
    """Positions of N, CA and C of each residue and what they are bonded to."""

    def __init__(
        self,
        members: Sequence[Member],
        xyz: np.ndarray,
        box: np.ndarray | None,
        bonded: frozenset[int] | None,
    ) -> None:
        self.rows = np.array([member.rows for member in members], dtype=np.int64).reshape(-1, 3)
        self.x = np.where((self.rows >= 0)[..., None], xyz[self.rows], np.nan)
        self.box, self.listed = box, bonded

    def bonds(self, first: Sequence[int], second: Sequence[int]) -> np.ndarray:
        """(R,) pair by pair: C of ``first`` is bonded to N of ``second``."""
        apart = nearest_image(self.x[second, 0] - self.x[first, 2], self.box)
        found: np.ndarray = np.linalg.norm(apart, axis=-1) < PEPTIDE_BOND
        return found

    def follows(self, index: Sequence[int]) -> np.ndarray:
        """(R - 1,) whether each of these residues is bonded to the next of them."""
        if self.listed is None:
            return self.bonds(index[:-1], index[1:])
        listed = self.listed
        return np.array([self.rows[i, 2] in listed for i in index[:-1]], dtype=bool)

    def touches(self, run: Sequence[int], part: Sequence[int]) -> bool:
        """Whether an end of a run is bonded to a residue of a part."""
        before = self.bonds(part, [run[0]] * len(part))
        behind = self.bonds([run[-1]] * len(part), part)
        return bool(before.any() or behind.any())

    def together(self, run: Sequence[int], part: Sequence[int]) -> bool:
        """Whether CA of these pairs of residues stand in the same place, in the median."""
        apart = np.linalg.norm(self.x[run, 1] - self.x[part, 1], axis=-1)
        apart = apart[np.isfinite(apart)]
        return bool(apart.size) and float(np.median(apart)) < _SAME_PLACE


def _runs(members: Sequence[Member], index: Sequence[int], geometry: _Geometry) -> list[list[int]]:
    """Stretches between signs of an end over which there is no bond."""
    runs = [[index[0]]]
    follows = geometry.follows(index) if len(index) > 1 else np.zeros(0, dtype=bool)
    for a, b, bond in zip(index, index[1:], follows.tolist(), strict=False):
        listed = geometry.listed is not None
        if not bond and (listed or _sign(members[a], members[b])):
            runs.append([])
        runs[-1].append(b)
    return runs


def _sign(a: Member, b: Member) -> bool:
    """Whether the file shows an end of a chain between two residues."""
    if a.piece != b.piece or a.segment != b.segment or a.terminal or b.number < a.number:
        return True
    # Two residue types of one place differ in their alternate locations.
    other_type = "" not in a.locations | b.locations and not a.locations & b.locations
    return a.place == b.place and not other_type


def _assigned(
    members: Sequence[Member], runs: list[list[int]], geometry: _Geometry, where: str
) -> list[tuple[int, list[int], bool]]:
    """Part, residues and loneliness of each run of one identifier."""
    parts: list[list[int]] = []
    places: list[dict[tuple[int, str], int]] = []
    found = []
    for number, run in enumerate(runs):
        own = {members[i].place: i for i in run}
        at = next((p for p, part in enumerate(parts) if geometry.touches(run, part)), None)
        shared = [[place for place in own if place in taken] for taken in places]
        for p, common in enumerate(shared):
            pairs = [own[place] for place in common], [places[p][place] for place in common]
            if common and (p == at or geometry.together(*pairs)):
                raise UserError(_twice(members, pairs[1][0], pairs[0][0], where))
        if at is None and number and not _begins(members, runs[number - 1], run):
            free = [p for p, common in enumerate(shared) if not common]
            at = free[-1] if free else None
        head = members[run[0]]
        expected = number == 0 and head.chain != "" and one_letter(head.name) is not None
        lonely = at is None and len(run) == 1 and not expected
        if at is None:
            at = len(parts)
            parts.append([])
            places.append({})
        parts[at] += run
        places[at].update(own)
        found.append((at, run, lonely))
    return found


def _begins(members: Sequence[Member], before: list[int], run: list[int]) -> bool:
    """Whether a stretch that is bonded to nothing is another chain than the one before it."""
    last, first = members[before[-1]], members[run[0]]
    back = first.piece != last.piece and first.number < last.number and len(run) > 1
    return not first.chain or back


def _twice(members: Sequence[Member], first: int, second: int, where: str) -> str:
    a, b = members[first], members[second]
    if a.name != b.name:
        return (
            f"{where}, residue {b.label}: two residues have this number, {a.name} and {b.name}; "
            "give one of them an insertion code or a chain of its own"
        )
    return (
        f"{where}, residue {b.label}: atom N is given twice; a duplicated residue, or two chains "
        "or models under one identifier: give each its own chain ID or MODEL record"
    )
