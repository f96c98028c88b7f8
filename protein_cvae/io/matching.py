"""Which residues of two structures are the same: by number, then by sequence alignment.

Residues of two chains that have one number and insertion code are the same if no two of them differ
in letter, they are half of the shorter chain, and an alignment does not find more (as where numbers
leave a gap behind the half).  Else those that a global alignment puts together with the same letter
are (Needleman and Wunsch 1970; match 2, mismatch -3, gap -5 and -0.5 for each residue, gaps at the
ends free).  X is the same as any letter by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from Bio.Align import PairwiseAligner
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import Ensemble, labels, listed
from protein_cvae.residues import UNKNOWN_LETTER

Pairs = list[tuple[int, int]]
"""Positions of the same residues, ascending."""

ALIGNMENT = "sequence alignment"


class Place(NamedTuple):
    """Number, insertion code ("" for none) and letter of a residue."""

    number: int
    insertion: str
    letter: str


class Matched(NamedTuple):
    """The common residues of two ensembles.

    Attributes:
        first, second: of both, the same number of residues.
        left_out: residues of each that the other lacks, in words; "" if there is none.
    """

    first: Ensemble
    second: Ensemble
    left_out: str


@dataclass(frozen=True)
class Residues:
    """Residues to be matched.

    Attributes:
        source: what they are of, for messages.
        chains: positions of the residues of each chain, ascending.
        places: L of them.
        label: of the residue at a position.
    """

    source: str
    chains: Sequence[Sequence[int]]
    places: Sequence[Place]
    label: Callable[[int], str]

    def without(self, kept: Iterable[int]) -> list[int]:
        """Positions that are none of these."""
        known = set(kept)
        return [i for chain in self.chains for i in chain if i not in known]

    def named(self, positions: Sequence[int]) -> str:
        """Residues, and what they are of; "" if there is none."""
        return f"{listed([self.label(i) for i in positions])} of {self.source}" if positions else ""


def match_residues(first: Ensemble, second: Ensemble, drop: bool) -> Matched:
    """The residues that both have; chains are paired in order.

    Args:
        first, second: of one protein.
        drop: leave out residues that only one has; False refuses them.

    Raises:
        ValueError: if they have other numbers of chains, no four residues in common, or residues
            are to be left out and ``drop`` is off; names files and residues.
    """
    if len(first.chain_ids) != len(second.chain_ids):
        raise UserError(
            f"{first.source} has chains {', '.join(first.chain_ids)} and {second.source} has "
            f"{', '.join(second.chain_ids)}; choose chains that agree"
        )
    one, two = _residues(first), _residues(second)
    pairs, ways = common_residues(one, two)
    keep = [torch.zeros(e.length, dtype=torch.bool) for e in (first, second)]
    for side in (0, 1):
        keep[side][[pair[side] for pair in pairs]] = True
    left = _alone(one, two, pairs)
    if left and not drop:
        raise only_one_has(one, two, pairs, ways)
    return Matched(first.select_residues(keep[0]), second.select_residues(keep[1]), left)


def common_residues(first: Residues, second: Residues) -> tuple[Pairs, list[str]]:
    """The residues that are the same, and how they were found in each pair of chains.

    Args:
        first, second: with the same number of chains, paired in order.

    Raises:
        ValueError: if there are less than four of them, or than the shorter one has.
    """
    pairs: Pairs = []
    ways = []
    for a, b in zip(first.chains, second.chains, strict=True):
        found, way = _pairs([first.places[i] for i in a], [second.places[j] for j in b])
        pairs += [(a[i], b[j]) for i, j in found]
        ways.append(way)
    sizes = [sum(map(len, residues.chains)) for residues in (first, second)]
    if len(pairs) < min(_FEWEST, *sizes):
        raise UserError(
            f"{first.source} and {second.source} have {len(pairs)} residues in common by "
            f"{_by(ways)}, of {sizes[0]} and {sizes[1]}; they are no one protein: choose chains "
            "that agree"
        )
    return pairs, ways


def only_one_has(first: Residues, second: Residues, pairs: Pairs, ways: Sequence[str]) -> UserError:
    """Refuses two structures of which one has residues that the other lacks."""
    return UserError(
        f"{first.source} and {second.source} have {len(pairs)} residues in common by {_by(ways)}, "
        f"and only one has {_alone(first, second, pairs)}; set incomplete: drop to go on with the "
        "common ones"
    )


def _alone(first: Residues, second: Residues, pairs: Pairs) -> str:
    """Residues that only one has; "" if there is none."""
    sides = ((first, (i for i, _ in pairs)), (second, (j for _, j in pairs)))
    return "; ".join(filter(None, (of.named(of.without(kept)) for of, kept in sides)))


_FEWEST = 4  # residues; a superposition is unique


def _by(ways: Sequence[str]) -> str:
    return " and ".join(sorted(set(ways)))


def _residues(ensemble: Ensemble) -> Residues:
    numbers = ensemble.residue_numbers.tolist()
    columns = zip(numbers, ensemble.insertion_codes, ensemble.sequence, strict=True)
    chains = range(len(ensemble.chain_ids))
    return Residues(
        ensemble.source,
        [(ensemble.chain_index == chain).nonzero()[:, 0].tolist() for chain in chains],
        [Place(*column) for column in columns],
        ensemble.label,
    )


def same_numbers(first: Sequence[Place], second: Sequence[Place]) -> Pairs | None:
    """Positions of equal numbers in two chains; None if the numbers do not mean the same."""
    places = {place[:2]: j for j, place in enumerate(second)}
    numbered = [(i, places[p[:2]]) for i, p in enumerate(first) if p[:2] in places]
    equal = all(_alike(first[i].letter, second[j].letter) for i, j in numbered)
    shorter = min(len(first), len(second))
    if not equal or 2 * len(numbered) < shorter:
        return None
    if len(numbered) < shorter and len(_aligned(first, second)) > len(numbered):
        return None
    return numbered


def _pairs(first: Sequence[Place], second: Sequence[Place]) -> tuple[Pairs, str]:
    """Positions of the same residues of two chains, ascending, and how they were found."""
    numbered = same_numbers(first, second)
    if numbered is not None and all(x[1] < y[1] for x, y in pairwise(numbered)):
        return numbered, "number"
    return _aligned(first, second), ALIGNMENT


def _alike(a: str, b: str) -> bool:
    return a == b or UNKNOWN_LETTER in (a, b)


def _aligned(first: Sequence[Place], second: Sequence[Place]) -> Pairs:
    """Pairs of equal letters in the best global alignment."""
    one, two = ("".join(place.letter for place in places) for places in (first, second))
    aligner = PairwiseAligner(mode="global", match_score=2, mismatch_score=-3)
    aligner.open_gap_score, aligner.extend_gap_score = -5, -0.5
    aligner.end_gap_score = 0
    best = aligner.align(one, two)[0]
    return [
        (i, j)
        for (a, stop), (b, _) in zip(*best.aligned, strict=True)
        for i, j in zip(range(a, stop), range(b, b + stop - a), strict=True)
        if one[i] == two[j]
    ]


def kept_where(ensemble: Ensemble, mask: Tensor, left_out: str) -> tuple[Ensemble, str]:
    """Residues where ``mask`` (L,) is True, and ``left_out`` with those that are not."""
    if bool(mask.all()):
        return ensemble, left_out
    here = f"{labels(ensemble, ~mask)}, without N, CA or C at an end"
    return ensemble.select_residues(mask), "; ".join(part for part in (left_out, here) if part)
