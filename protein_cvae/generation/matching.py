"""Which residues of two ensembles are the same: by number, then by sequence alignment.

Chains are paired in order.  Residues of a pair that have one number and insertion code are the same
if no two of them differ in letter and they are half of the shorter chain; else those that a global
alignment puts together with the same letter are (Needleman and Wunsch 1970; match 2, mismatch -3,
gap -5 and -0.5 for each residue, gaps at the ends free).  X is the same as any letter by number.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from Bio.Align import PairwiseAligner
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import Ensemble, labels
from protein_cvae.residues import UNKNOWN_LETTER


class Matched(NamedTuple):
    """The common residues of two ensembles.

    Attributes:
        first, second: of both, the same number of residues.
        left_out: residues of each that the other lacks, in words; "" if there is none.
    """

    first: Ensemble
    second: Ensemble
    left_out: str


def match_residues(first: Ensemble, second: Ensemble, drop: bool) -> Matched:
    """The residues that both have.

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
    pairs, ways = [], set()
    for chain in range(len(first.chain_ids)):
        found, way = _pairs(first, second, chain)
        pairs += found
        ways.add(way)
    keep = [torch.zeros(e.length, dtype=torch.bool) for e in (first, second)]
    for side in (0, 1):
        keep[side][[pair[side] for pair in pairs]] = True
    by = " and ".join(sorted(ways))
    if len(pairs) < _FEWEST:
        raise UserError(
            f"{first.source} and {second.source} have {len(pairs)} residues in common by {by}, of "
            f"{first.length} and {second.length}; they are no one protein: choose chains that agree"
        )
    left = "; ".join(
        f"{labels(ensemble, ~kept)} of {ensemble.source}"
        for ensemble, kept in zip((first, second), keep, strict=True)
        if not bool(kept.all())
    )
    if left and not drop:
        raise UserError(
            f"{first.source} and {second.source} have {len(pairs)} residues in common by {by}, and "
            f"only one has {left}; set incomplete: drop to go on with the common ones"
        )
    return Matched(first.select_residues(keep[0]), second.select_residues(keep[1]), left)


_FEWEST = 4  # residues; a superposition is unique


def _pairs(first: Ensemble, second: Ensemble, chain: int) -> tuple[list[tuple[int, int]], str]:
    """Indices of the same residues of a pair of chains, ascending, and how they were found."""
    a, b = (_indices(ensemble, chain) for ensemble in (first, second))
    places = {_place(second, j): j for j in b}
    numbered = [(i, places[_place(first, i)]) for i in a if _place(first, i) in places]
    equal = all(_alike(first.sequence[i], second.sequence[j]) for i, j in numbered)
    ascending = all(x[1] < y[1] for x, y in pairwise(numbered))
    if equal and ascending and 2 * len(numbered) >= min(len(a), len(b)):
        return numbered, "number"
    one, two = ("".join(e.sequence[i] for i in index) for e, index in ((first, a), (second, b)))
    return [(a[i], b[j]) for i, j in _aligned(one, two)], "sequence alignment"


def _indices(ensemble: Ensemble, chain: int) -> list[int]:
    found: list[int] = (ensemble.chain_index == chain).nonzero()[:, 0].tolist()
    return found


def _place(ensemble: Ensemble, i: int) -> tuple[int, str]:
    return int(ensemble.residue_numbers[i]), ensemble.insertion_codes[i]


def _alike(a: str, b: str) -> bool:
    return a == b or UNKNOWN_LETTER in (a, b)


def _aligned(first: str, second: str) -> list[tuple[int, int]]:
    """Pairs of equal letters in the best global alignment."""
    aligner = PairwiseAligner(mode="global", match_score=2, mismatch_score=-3)
    aligner.open_gap_score, aligner.extend_gap_score = -5, -0.5
    aligner.end_gap_score = 0
    best = aligner.align(first, second)[0]
    return [
        (i, j)
        for (a, stop), (b, _) in zip(*best.aligned, strict=True)
        for i, j in zip(range(a, stop), range(b, b + stop - a), strict=True)
        if first[i] == second[j]
    ]


def kept_where(ensemble: Ensemble, mask: Tensor, left_out: str) -> tuple[Ensemble, str]:
    """Residues where ``mask`` (L,) is True, and ``left_out`` with those that are not."""
    if bool(mask.all()):
        return ensemble, left_out
    here = f"{labels(ensemble, ~mask)}, without N, CA or C at an end"
    return ensemble.select_residues(mask), "; ".join(part for part in (left_out, here) if part)
