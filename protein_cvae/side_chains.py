"""Heavy side-chain atoms of an ensemble, in the frames of their residues.

The atoms of a residue stand in fixed slots, ``residues.SIDE_CHAINS`` of its letter: CB first, then
outwards.  Coordinates are those in the frame of N, CA and C (``geometry.frames``: origin CA, x
along CA → C, N in the plane y > 0), so that they hold in any pose of the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.residues import SIDE_CHAIN_SLOTS, SIDE_CHAINS


@dataclass(frozen=True, eq=False)
class SideChains:
    """Side chains of M models of L residues; S = 10 slots.

    Attributes:
        local: (M, L, S, 3) Å, in the residue's frame; zero where ``mask`` is False.
        mask: (M, L, S) bool, the atom is there.

    Raises:
        ValueError: if sizes or types do not agree with the above, or a coordinate is not finite.
    """

    local: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        slots = (SIDE_CHAIN_SLOTS,)
        if self.mask.dim() != 3 or self.mask.shape[2:] != slots or self.mask.dtype != torch.bool:
            raise UserError(
                f"side chains: mask must be (M, L, {SIDE_CHAIN_SLOTS}) bool, got "
                f"{tuple(self.mask.shape)} of {self.mask.dtype}"
            )
        if self.local.shape != (*self.mask.shape, 3) or not self.local.is_floating_point():
            raise UserError(
                f"side chains: local must be {(*self.mask.shape, 3)} floating point, got "
                f"{tuple(self.local.shape)} of {self.local.dtype}"
            )
        if not bool(torch.isfinite(self.local).all()):
            raise UserError("side chains: local holds NaN or infinity; mask what is missing")

    @staticmethod
    def none(models: int, residues: int) -> SideChains:
        """Without any atom."""
        mask = torch.zeros(models, residues, SIDE_CHAIN_SLOTS, dtype=torch.bool)
        return SideChains(torch.zeros(*mask.shape, 3), mask)

    def models(self, positions: Sequence[int]) -> SideChains:
        """Those of the models at these positions."""
        return SideChains(self.local[list(positions)], self.mask[list(positions)])

    def residues(self, index: Tensor) -> SideChains:
        """Those of the residues (N,) at these positions."""
        return SideChains(self.local[:, index], self.mask[:, index])

    def complete(self, sequence: str) -> Tensor:
        """(M, L) bool: every atom is there that a residue of this letter has.

        True of alanine, glycine and X, too, whose CB follows from the backbone.
        """
        wanted = side_chain_mask(sequence)
        return (self.mask | ~wanted).all(-1) | (wanted.sum(-1) < 2)


def side_chain_mask(sequence: str) -> Tensor:
    """(L, S) bool: the slots that residues of these letters have."""
    counts = torch.tensor([len(SIDE_CHAINS[letter]) for letter in sequence])
    return torch.arange(SIDE_CHAIN_SLOTS) < counts[:, None]


def join_models(parts: Sequence[SideChains | None]) -> SideChains | None:
    """The models of all parts, one behind the other; None if a part has none."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    return SideChains(*(torch.cat([getattr(p, name) for p in found]) for name in ("local", "mask")))
