"""Chains in pieces that cannot be of one chain.

Residues of one chain that follow each other, bonded or not, are torn where their CA are further
apart than the residues that their numbers leave out can reach: 4.2 Å times one more than those.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 4.2  # Å, CA-CA of neighbours: 3.8 Å of a trans peptide, and its deviations


def torn_chains(
    ca: Tensor, mask: Tensor, bonded: Tensor, chain: Tensor | None, number: Tensor | None
) -> Tensor:
    """(M, L) bool: the chain cannot go on from residue i to i + 1.

    Args:
        ca: (M, L, 3) Å.
        mask: (M, L) bool, residue present.
        bonded: (M, L) bool, residue i should be bonded to i + 1, whatever their numbers.
        chain: (L,) int64; None where chains are not known: nothing is torn then.
        number: (L,) int64 residue numbers; None where none is left out.
    """
    torn = torch.zeros_like(mask)
    if chain is None:
        return torn
    step = torch.ones_like(chain[1:]) if number is None else (number[1:] - number[:-1]).clamp_min(1)
    reach = REACH * torch.where(bonded[..., :-1], torch.ones_like(step), step)
    far = torch.linalg.vector_norm(ca[..., 1:, :] - ca[..., :-1, :], dim=-1) > reach
    torn[..., :-1] = far & (chain[1:] == chain[:-1]) & mask[..., 1:] & mask[..., :-1]
    return torn
