"""Tails of a draw: which residues they are, what they hang on, and where that carries them."""

from __future__ import annotations

import torch
from torch import Tensor

from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.model.states import Condition

_OVERLAP = 3.9  # Å between CA three or more residues apart


def tails(q: Tensor, link: Tensor, mask: Tensor, threshold: Tensor) -> Tensor:
    """(B, L) bool: from both ends of each piece of chain inwards while q stays above a threshold.

    The residue of least q in a piece is never in its tail.

    Args:
        q: (B, L) in [0, 1], averaged here over three residues of a piece.
        link: (B, L) bool, a peptide bond leads to the next residue.
        mask: (B, L) bool.
        threshold: (B, 1).
    """
    follows = torch.cat([torch.zeros_like(link[:, :1]), link[:, :-1]], dim=1)
    total, count = q.clone(), torch.ones_like(q)
    total[:, :-1] += q[:, 1:] * link[:, :-1]
    total[:, 1:] += q[:, :-1] * follows[:, 1:]
    count[:, :-1] += link[:, :-1].to(q)
    count[:, 1:] += follows[:, 1:].to(q)
    smooth = total / count
    piece = (~follows).cumsum(1) - 1  # (B, L)
    least = torch.full_like(smooth, torch.inf).scatter_reduce(1, piece, smooth, "amin")
    above = mask & (smooth > threshold) & (smooth > least.gather(1, piece))
    place = torch.arange(q.shape[1], device=q.device).expand_as(piece)
    inside = torch.where(above, -1, place)
    # First and last residue of the piece that stays.
    last = torch.full_like(place, -1).scatter_reduce(1, piece, inside, "amax").gather(1, piece)
    outer = torch.where(above, q.shape[1], place)
    first = torch.full_like(place, q.shape[1]).scatter_reduce(1, piece, outer, "amin")
    return mask & ((place < first.gather(1, piece)) | (place > last))


def anchors(tail: Tensor, link: Tensor) -> Tensor:
    """(B, L) int64, for each residue a residue of its piece that is in no tail, the nearest."""
    place = torch.arange(tail.shape[1], device=tail.device).expand_as(tail)
    follows = torch.cat([torch.zeros_like(link[:, :1]), link[:, :-1]], dim=1)
    piece = (~follows).cumsum(1) - 1
    kept = ~tail
    first = torch.full_like(place, tail.shape[1]).scatter_reduce(
        1, piece, torch.where(kept, place, tail.shape[1]), "amin"
    )
    last = torch.full_like(place, -1).scatter_reduce(1, piece, torch.where(kept, place, -1), "amax")
    first, last = first.gather(1, piece), last.gather(1, piece)
    return torch.minimum(torch.maximum(place, first), last)


def carried(
    condition: Condition,
    rotation: Tensor,
    origin: Tensor,
    shift: Tensor,
    turn: Tensor,
    anchor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Frames of tails moved along with the residue they hang on."""
    base, at = (
        at_place(condition.rotation.double(), anchor),
        at_place(condition.origin.double(), anchor),
    )
    swung = base @ rotation_from_axis_angle(at_place(turn.double(), anchor)) @ base.mT
    moved = at + (base @ at_place(shift.double(), anchor)[..., None])[..., 0]
    return swung @ rotation, moved + (swung @ (origin - at)[..., None])[..., 0]


def overlaps(condition: Condition, origin: Tensor, shift: Tensor, tail: Tensor) -> Tensor:
    """(B,) pairs of CA too near, of which one is in a tail."""
    mask = condition.modes.mask
    moved = condition.origin + (condition.rotation @ shift[..., None])[..., 0]
    x = torch.where(tail[..., None], origin.to(moved), moved)
    place = torch.arange(mask.shape[1], device=mask.device)
    far = (place[:, None] - place).abs() >= 3
    pair = far & mask[:, :, None] & mask[:, None] & (tail[:, :, None] | tail[:, None])
    near = (x[:, :, None] - x[:, None]).square().sum(-1) < _OVERLAP**2
    return (near & pair).sum((1, 2))


def at_place(x: Tensor, index: Tensor) -> Tensor:
    """x (B, L, ...) at residues index (B, L)."""
    wide = index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x)
    return x.gather(1, wide)
