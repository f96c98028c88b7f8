"""Which of several side chains each residue takes, so that few atoms overlap.

With overlap(a, b) as in :mod:`protein_cvae.geometry.clashes`, the choice c(i) of residue i lowers

    E(i) = cost(c(i)) + Σ_{a in i, b} max(0, overlap(a, b) − 0.5 Å),

a beyond CB, b over the side chains of all other residues (of neighbours along the chain, beyond CB)
and over the backbone of those that are no neighbours.  Residues are visited in turn, those without
an overlap stay as they are, until none changes or five rounds are over; the sum falls with every
change.
"""

from __future__ import annotations

import numpy as np

from protein_cvae.geometry.clashes import ALLOWANCE, RADII, elements

_TOLERATED = 0.5  # Å; below the 0.6 of a clash, so that relieved atoms have some room
_ROUNDS = 5
_BACKBONE = 4  # N, CA, C, O, before the slots
_CB = 4


def least_overlap(
    backbone: np.ndarray,
    candidates: np.ndarray,
    allowed: np.ndarray,
    mask: np.ndarray,
    sequence: str,
    chain: np.ndarray,
    cost: np.ndarray,
) -> np.ndarray:
    """(L,) int, the candidate of each residue.

    Args:
        backbone: (L, 4, 3) Å: N, CA, C, O.
        candidates: (M, L, S, 3) Å, side chains; the search begins with the first, and of equals
            takes the one that comes first.
        allowed: (M, L) bool, candidates that may be taken.
        mask: (L, S) bool, atoms that the residue has.
        sequence: L letters.
        chain: (L,) int.
        cost: (M,) Å, of taking a candidate.
    """
    problem = _Overlaps(backbone, candidates, mask, sequence, chain)
    choice = np.zeros(len(sequence), dtype=np.int64)
    movable = mask[:, 1:].any(1) & (allowed.sum(0) > 1)
    waiting = movable.copy()  # not looked at since something around changed
    for _ in range(_ROUNDS):
        for i in np.flatnonzero(waiting).tolist():
            waiting[i] = False
            if problem.overlaps(i, choice[i : i + 1])[0] == 0:
                continue
            free = np.flatnonzero(allowed[:, i])
            best = free[(problem.overlaps(i, free) + cost[free]).argmin()]
            if best != choice[i]:
                choice[i] = best
                around = problem.take(i, best)
                waiting[around] = movable[around]
    return choice


class _Overlaps:
    """Overlaps of the side chain of one residue with the atoms around it."""

    def __init__(
        self,
        backbone: np.ndarray,
        candidates: np.ndarray,
        mask: np.ndarray,
        sequence: str,
        chain: np.ndarray,
    ) -> None:
        self._candidates = candidates
        self._atoms = np.concatenate([backbone, candidates[0]], axis=1)  # (L, 4 + S, 3)
        self._own = np.pad(mask, ((0, 0), (_BACKBONE, 0)))
        self._own[:, _CB] = False  # it stands where the backbone puts it
        self._there = np.pad(mask, ((0, 0), (_BACKBONE, 0)), constant_values=True)
        element = np.array([list(elements(letter)) for letter in sequence])  # (L, 4 + S)
        self._radius = np.vectorize(RADII.__getitem__)(element)
        self._polar = np.isin(element, ("N", "O"))
        self._sulphur = element == "S"
        ca, index = backbone[:, 1], np.arange(len(sequence))
        lengths = np.linalg.norm(candidates - ca[:, None], axis=-1)  # (M, L, S)
        reach = np.where(mask, lengths, 0.0).max((0, 2)) + max(RADII.values())
        reach = np.maximum(reach, np.linalg.norm(backbone - ca[:, None], axis=-1).max(1) + 1.7)
        apart = np.linalg.norm(ca[:, None] - ca, axis=-1)
        near = (apart < reach[:, None] + reach - _TOLERATED) & (index[:, None] != index)
        self._around = [np.flatnonzero(row) for row in near]
        self._beside = (np.abs(index[:, None] - index) == 1) & (chain[:, None] == chain)

    def take(self, i: int, candidate: int) -> np.ndarray:
        """Give residue i this candidate; the residues that it may overlap."""
        self._atoms[i, _BACKBONE:] = self._candidates[candidate, i]
        return self._around[i]

    def overlaps(self, i: int, wanted: np.ndarray) -> np.ndarray:
        """(W,) Å, E(i) without cost of these candidates of residue i, others being as they are."""
        js, own = self._around[i], self._own[i]
        there = self._there[js]
        there[self._beside[i, js], : _CB + 1] = False
        x = self._candidates[wanted, i][:, own[_BACKBONE:]]  # (W, A, 3)
        others = self._atoms[js][there]  # (B, 3)
        limit = self._radius[i, own][:, None] + self._radius[js][there] - _TOLERATED
        limit -= ALLOWANCE * (self._polar[i, own][:, None] & self._polar[js][there])
        limit[self._sulphur[i, own][:, None] & self._sulphur[js][there]] = 0.0
        apart = np.linalg.norm(x[:, :, None] - others, axis=-1)  # (W, A, B)
        found: np.ndarray = np.maximum(limit - apart, 0.0).sum((1, 2))
        return found
