"""Which ensembles are relatives: families by sequence identity, and families named by the user.

Two chains are relatives if, in the best global alignment (Needleman & Wunsch 1970; affine gaps of
Gotoh 1982, free at the ends; BLOSUM62 with 11 to open and 1 to extend),

    identical residues / residues of the shorter chain  >=  0.30   and
    E = K m n exp(-lambda S)  <=  1e-4,    lambda = 0.267, K = 0.041

with S the score, m and n the lengths, and lambda and K those of that scoring (Karlin & Altschul
1990; Altschul et al. 1997).  The second condition is needed for short chains: a 20-residue peptide
finds 30 % of itself in almost any protein, and one peptide would tie all families together.  Tags
are cut first, because unrelated proteins share them.  Families are the connected components.

Identity does not see distant relatives (a Kunitz domain may share 25 % with another); those are
named by the user.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

from Bio.Align import PairwiseAligner, substitution_matrices
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.errors import UserError

MIN_IDENTITY = 0.30
_MAX_EXPECTED = 1e-4
_LAMBDA, _K = 0.267, 0.041
# Purification tags at either end: (LE)HHHHHH and (M)GHHHHHHSH; five histidines and more count.
_TAG_END = re.compile(r"(LE)?H{5,}$")
_TAG_START = re.compile(r"^M?G?H{5,}(SH)?")


def strip_tags(sequence: str) -> str:
    """The sequence without a histidine tag at its ends."""
    return _TAG_START.sub("", _TAG_END.sub("", sequence))


def identity(first: str, second: str) -> tuple[float, float]:
    """Share of identical residues and expected number of chance matches as good.

    Args:
        first, second: sequences of the 20 letters and X; X counts as identical to nothing.

    Returns:
        ``(share, expected)``: identical pairs of the best alignment over the length of the shorter
        sequence, in [0, 1], and E of the module's docstring.  Without any letter: (0, inf).
    """
    shorter = min(len(first), len(second))
    if shorter == 0:
        return 0.0, math.inf
    alignment = _aligner().align(first, second)[0]
    same = 0
    for (a, a_end), (b, _) in zip(*alignment.aligned, strict=True):
        block = zip(first[a:a_end], second[b : b + a_end - a], strict=True)
        same += sum(x == y != "X" for x, y in block)
    expected = _K * len(first) * len(second) * math.exp(-_LAMBDA * alignment.score)
    return same / shorter, expected


def related(first: str, second: str, min_identity: float = MIN_IDENTITY) -> bool:
    """Whether two chains are relatives in the sense of the module's docstring."""
    if first == second:
        return True
    share, expected = identity(strip_tags(first), strip_tags(second))
    return share >= min_identity and expected <= _MAX_EXPECTED


def find_families(
    chains: Mapping[str, Sequence[str]],
    named: Sequence[Sequence[str]] = (),
    min_identity: float = MIN_IDENTITY,
) -> dict[str, str]:
    """The family of each ensemble, called by the first of its members' names.

    Args:
        chains: the sequences of each ensemble, by its name.
        named: groups of names that are relatives whatever their identity.  Names that are not in
            ``chains`` are passed over, so that one list serves any selection of files; a group
            still joins those that are.
        min_identity: of two chains that are relatives, in (0, 1].

    Returns:
        For each ensemble the least name of its family: the same in whatever order they come.

    Raises:
        ValueError: if ``min_identity`` is outside (0, 1].
    """
    if not 0 < min_identity <= 1:
        raise UserError(f"min_identity must lie in (0, 1], got {min_identity}")
    names = list(chains)
    position = {name: i for i, name in enumerate(names)}
    # Many ensembles share a sequence: every pair of distinct ones is aligned once.
    owners: dict[str, list[int]] = {}
    for name, sequences in chains.items():
        for sequence in sequences:
            owners.setdefault(strip_tags(sequence), []).append(position[name])
    links = [(members[0], other) for members in owners.values() for other in members]
    for (first, ours), (second, theirs) in combinations(owners.items(), 2):
        if first and second and related(first, second, min_identity):
            links.append((ours[0], theirs[0]))
    for group in named:
        present = [position[name] for name in group if name in position]
        links += [(present[0], other) for other in present]
    rows, columns = zip(*links, strict=True) if links else ((), ())
    graph = coo_array(([1] * len(links), (rows, columns)), shape=(len(names), len(names)))
    labels = connected_components(graph, directed=False)[1].tolist() if names else []
    least: dict[int, str] = {}
    for name, label in sorted(zip(names, labels, strict=True)):
        least.setdefault(label, name)
    return {name: least[label] for name, label in zip(names, labels, strict=True)}


@cache
def _aligner() -> PairwiseAligner:
    aligner = PairwiseAligner(mode="global")
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")
    aligner.open_gap_score, aligner.extend_gap_score = -12, -1  # 11 to open, 1 for each residue
    aligner.end_gap_score = 0
    return aligner
