"""Heavy atoms that stand too close, of residues that are not neighbours along a chain.

    overlap(a, b) = r_a + r_b − |x_a − x_b| − h

with the van der Waals radii r of Bondi (1964), J. Phys. Chem. 68, 441-451, and h = 0.4 Å where both
atoms are N or O and may share a hydrogen.  A clash is an overlap of 0.6 Å or more, the definition
of UCSF Chimera (Pettersen et al. 2004, J. Comput. Chem. 25, 1605-1612).  Two sulphurs, which may
be bonded, are left out.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from protein_cvae.residues import SIDE_CHAIN_SLOTS, SIDE_CHAINS

RADII = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}  # Å
ALLOWANCE = 0.4  # Å
OVERLAP = 0.6  # Å
_BACKBONE = "NCCO"  # elements of N, CA, C and O


def clashing_pairs(
    atoms: Tensor, mask: Tensor, sequence: str, chain: Tensor, overlap: float = OVERLAP
) -> np.ndarray:
    """(P, 2) residues of the pairs of heavy atoms of one conformer that clash.

    Args:
        atoms: (L, 4 + S, 3) Å: N, CA, C, O and the slots of ``residues.SIDE_CHAINS``.
        mask: (L, 4 + S) bool, the atom is there.
        sequence: L letters.
        chain: (L,) int64; neighbours are residues i and i + 1 of one chain.
        overlap: least overlap of a clash, Å.
    """
    there = mask.numpy()
    residue = np.nonzero(there)[0]
    x = atoms.numpy()[there]
    element = np.array([list(elements(letter)) for letter in sequence])[there]
    radius = np.array([RADII[name] for name in element])
    polar, sulphur = np.isin(element, ("N", "O")), element == "S"
    pairs = cKDTree(x).query_pairs(2 * max(RADII.values()) - overlap, output_type="ndarray")
    a, b = pairs.T
    i, j, chains = residue[a], residue[b], chain.numpy()
    near = (np.abs(i - j) < 2) & (chains[i] == chains[j])
    limit = radius[a] + radius[b] - np.where(polar[a] & polar[b], ALLOWANCE, 0.0) - overlap
    close = np.linalg.norm(x[a] - x[b], axis=1) <= limit
    found: np.ndarray = residue[pairs[close & ~near & ~(sulphur[a] & sulphur[b])]]
    return found


def clashes_per_1000(
    atoms: Tensor, mask: Tensor, sequence: str, chain: Tensor, overlap: float = OVERLAP
) -> float:
    """Pairs that clash over thousands of atoms, mean over conformers.

    Args:
        atoms, mask: (K, L, 4 + S, 3) Å and (K, L, 4 + S).
        sequence, chain, overlap: as of :func:`clashing_pairs`.
    """
    rates = [
        1000 * len(clashing_pairs(x, there, sequence, chain, overlap)) / int(there.sum())
        for x, there in zip(atoms, mask, strict=True)
    ]
    return float(np.mean(rates))


def elements(letter: str) -> str:
    """Element of each of the 4 + S atoms; C where a residue has none."""
    side = "".join(name[0] for name in SIDE_CHAINS[letter])
    return _BACKBONE + side.ljust(SIDE_CHAIN_SLOTS, "C")
