"""Batches of conformers: each item a model to encode and a template of the same protein.

Items are padded to the longest one of their batch.  Padding is finite zeros with every mask False,
amino acid X, chain -1, so that nothing computed under the masks can depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.residues import UNKNOWN

# What fills the residues that a shorter protein does not have.
_PADDING: dict[str, int] = {"aatype": UNKNOWN, "chain_index": -1}

_PER_RESIDUE = (
    "coordinates",
    "mask",
    "template",
    "template_mask",
    "aatype",
    "embedding",
    "chain_index",
    "residue_index",
    "bonded",
    "core",
)
_PER_ITEM = ("sequence_mask", "weight", "protein", "model")
_DTYPES = {
    "coordinates": torch.float32,
    "mask": torch.bool,
    "template": torch.float32,
    "template_mask": torch.bool,
    "aatype": torch.int64,
    "embedding": torch.float32,
    "sequence_mask": torch.bool,
    "chain_index": torch.int64,
    "residue_index": torch.int64,
    "bonded": torch.bool,
    "core": torch.bool,
    "weight": torch.float32,
    "protein": torch.int64,
    "model": torch.int64,
}


@dataclass(frozen=True, eq=False)
class ProteinBatch:
    """B conformers, padded to L residues.

    Attributes:
        coordinates: (B, L, 3, 3) float32 N, CA, C of the model to encode, Å; zeros where absent.
        mask: (B, L) bool, residue present; padding and missing residues False.
        template: (B, L, 3, 3) float32 another model of the same protein, in an arbitrary pose.
        template_mask: (B, L) bool; all False where the template is withheld.
        aatype: (B, L) int64 in 0..20, 20 = X.
        embedding: (B, L, D) float32 sequence embedding; D = 0 without an embedder.
        sequence_mask: (B,) bool, False where the sequence modality is withheld.
        chain_index: (B, L) int64 from 0 in file order; -1 in padding.
        residue_index: (B, L) int64 position in the chain.
        bonded: (B, L) bool, residue i is bonded to i + 1.
        core: (B, L) bool ordered core of the protein.
        weight: (B,) float32; see :mod:`protein_cvae.data.datamodule`.
        protein: (B,) int64 index of the ensemble.
        model: (B,) int64 index of the model in it.
        names: B names of ensembles.
    """

    coordinates: Tensor
    mask: Tensor
    template: Tensor
    template_mask: Tensor
    aatype: Tensor
    embedding: Tensor
    sequence_mask: Tensor
    chain_index: Tensor
    residue_index: Tensor
    bonded: Tensor
    core: Tensor
    weight: Tensor
    protein: Tensor
    model: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    @property
    def length(self) -> int:
        """L, residues after padding."""
        return int(self.mask.shape[1])

    @property
    def device(self) -> torch.device:
        return self.mask.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ProteinBatch:
        """The batch on another device; Lightning moves batches with this."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ProteinBatch:
        """The batch in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def item(self, index: int) -> ProteinBatch:
        """The one conformer ``index``, with this batch's padding."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must lie in [-{len(self)}, {len(self)}), got {index}")
        index %= len(self)
        return ProteinBatch(
            **{f: getattr(self, f)[index : index + 1] for f in (*_PER_RESIDUE, *_PER_ITEM)},
            names=self.names[index : index + 1],
        )

    def check(self) -> None:
        """Verify shapes, dtypes and the meaning of the masks.

        Raises:
            ValueError: naming the field, what was expected and what came.
        """
        if self.mask.dim() != 2:
            raise UserError(f"mask must have shape (B, L), got {tuple(self.mask.shape)}")
        b, length = self.mask.shape
        for name in _PER_RESIDUE:
            value: Tensor = getattr(self, name)
            tail: tuple[int, ...] = ()
            if name in ("coordinates", "template"):
                tail = (3, 3)
            elif name == "embedding":
                tail = (int(value.shape[-1]),)
            _check_field(name, value, (b, length, *tail))
        for name in _PER_ITEM:
            _check_field(name, getattr(self, name), (b,))
        if len(self.names) != b:
            raise UserError(f"names must hold {b} names, got {len(self.names)}")
        for name in ("coordinates", "template", "embedding"):
            if not torch.isfinite(getattr(self, name)).all():
                raise UserError(
                    f"{name} of {', '.join(self.names)} holds NaN or infinity; missing entries "
                    "must be zeros under a False mask"
                )
        if not ((self.aatype >= 0) & (self.aatype <= UNKNOWN)).all():
            raise UserError(f"aatype must lie in 0..{UNKNOWN}")
        if length and bool(self.bonded[:, -1].any()):
            raise UserError("bonded: the last residue has no next one to be bonded to")

    def _map(self, move: Callable[[Tensor], Tensor]) -> ProteinBatch:
        moved = {f: move(getattr(self, f)) for f in (*_PER_RESIDUE, *_PER_ITEM)}
        return ProteinBatch(**moved, names=self.names)


def _check_field(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape or value.dtype != _DTYPES[name]:
        raise UserError(
            f"{name} must be {_DTYPES[name]} of shape {shape}, "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )


def collate(items: Sequence[ProteinBatch]) -> ProteinBatch:
    """Join batches (of one conformer or more), padding to the longest.

    Args:
        items: at least one; embeddings must have the same width.

    Raises:
        ValueError: on an empty list or on embeddings of different width.
    """
    if not items:
        raise UserError("a batch needs at least one conformer, got none")
    widths = {int(item.embedding.shape[-1]) for item in items}
    if len(widths) > 1:
        raise UserError(f"embeddings must have the same width, got {sorted(widths)}")
    length = max(item.length for item in items)
    joined = {
        name: torch.cat(
            [_pad(getattr(item, name), length, _PADDING.get(name, 0)) for item in items]
        )
        for name in _PER_RESIDUE
    }
    joined |= {name: torch.cat([getattr(item, name) for item in items]) for name in _PER_ITEM}
    return ProteinBatch(**joined, names=tuple(name for item in items for name in item.names))


def _pad(value: Tensor, length: int, fill: int) -> Tensor:
    # (b, l, ...) -> (b, length, ...)
    missing = length - value.shape[1]
    if missing == 0:
        return value
    return torch.cat([value, value.new_full((value.shape[0], missing, *value.shape[2:]), fill)], 1)
