"""Chains made whole that a periodic box cuts, in every frame; any box of three vectors.

Along a chain, atom by atom, the vector d from one backbone atom to the next is replaced by its
periodic image d − n B with n = round(d B⁻¹), where B holds the box vectors in rows, if that is a
bond and d is none; everything behind moves along.  A real break stays one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from protein_cvae.io.atoms import usable_box
from protein_cvae.io.notes import NoteBook

PEPTIDE_BOND = 2.0  # Å; a C-N bond has 1.33, the nearest contact without one about 2.8
BOND_RANGE = (0.8, 2.3)  # Å; N-CA and CA-C outside it are no bond of one residue


def nearest_image(apart: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """(..., 3) periodic image of vectors that is near zero if there is such a one."""
    if box is None:
        return apart
    found: np.ndarray = apart - np.round(np.nan_to_num(apart) @ np.linalg.inv(box)) @ box
    return found


def usable_boxes(boxes: np.ndarray) -> np.ndarray:
    """(M,) bool: which of (M, 3, 3) are boxes."""
    found = np.zeros(len(boxes), dtype=bool)
    same = len(boxes) > 1 and bool((boxes == boxes[0]).all())
    if same:
        return np.full(len(boxes), usable_box(boxes[0]))
    for m, box in enumerate(boxes):
        found[m] = usable_box(box)
    return found


def make_whole(
    coordinates: np.ndarray, boxes: np.ndarray, units: Sequence[tuple[str, int]], book: NoteBook
) -> np.ndarray:
    """(M, L, 3, 3) coordinates without the cuts of a periodic box; the same array if there is none.

    Args:
        coordinates: (M, L, 3, 3) Å, NaN where an atom is missing.
        boxes: (M, 3, 3) Å; NaN where a model has none.
        units: chain of each residue; residues of a chain follow each other.
        book: takes a note for each model and chain that was cut.
    """
    models = np.flatnonzero(usable_boxes(boxes))
    if not models.size:
        return coordinates
    flat = coordinates[models].reshape(len(models), -1, 3)
    box = boxes[models]
    apart = np.diff(flat, axis=1)  # (M, 3 L - 1, 3) from each atom to the next
    limit = np.full(apart.shape[1], BOND_RANGE[1])
    limit[2::3] = PEPTIDE_BOND
    joint = np.array([a == b for a, b in pairwise(units)], dtype=bool)
    within = np.ones(apart.shape[1], dtype=bool)
    within[2::3] = joint
    finite = np.isfinite(apart).all(-1)
    far = finite & within & (np.linalg.norm(np.nan_to_num(apart), axis=-1) >= limit)
    if not far.any():
        return coordinates
    turns = np.round(np.einsum("max,mxy->may", np.nan_to_num(apart), np.linalg.inv(box)))
    image = apart - np.einsum("max,mxy->may", turns, box)
    bond = np.linalg.norm(np.nan_to_num(image, nan=1e9), axis=-1) < limit
    turns[~(far & bond)] = 0
    if not turns.any():
        return coordinates
    whole = coordinates.copy()
    first = 0
    for unit in dict.fromkeys(units):
        count = sum(other == unit for other in units)
        atoms = slice(3 * first, 3 * (first + count) - 1)
        moved = np.cumsum(turns[:, atoms], axis=1)
        cut = np.flatnonzero(moved.any((1, 2)))
        if cut.size:
            shift = np.einsum("max,mxy->may", moved[cut], box[cut])
            part = whole[models[cut], first : first + count].reshape(len(cut), -1, 3)
            part[:, 1:] -= shift
            whole[models[cut], first : first + count] = part.reshape(len(cut), count, 3, 3)
            for m in models[cut]:
                book.add("periodic box", f"chain {unit[0] or '-'}", "cut by it, made whole", int(m))
        first += count
    return whole


def bring_together(
    coordinates: np.ndarray, boxes: np.ndarray, units: Sequence[tuple[str, int]], book: NoteBook
) -> np.ndarray:
    """(M, L, 3, 3) coordinates with each chain in the periodic image that goes on from the last.

    Programs put every molecule into the box by itself, so that a chain may change sides from one
    frame to the next.  The first frame is taken as it is.  If some frame has no box, nothing is
    moved.  Arguments as of :func:`make_whole`.
    """
    if len(set(units)) < 2 or not usable_boxes(boxes).all():
        return coordinates
    return ChainImages(units).follow(coordinates, boxes, book)


class ChainImages:
    """Which periodic image each of several chains is in, followed through frames in parts.

    The vector between the centres of a chain and of the first one, in units of the box, is
    unwrapped along the frames; it has to move by less than half the box in between.

    Args:
        units: chain of each residue.
    """

    def __init__(self, units: Sequence[tuple[str, int]]) -> None:
        self._chains = {
            chain: np.array([unit == chain for unit in units]) for chain in dict.fromkeys(units)
        }
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # of the frame before: (C, 3) each

    def follow(self, coordinates: np.ndarray, boxes: np.ndarray, book: NoteBook) -> np.ndarray:
        """The next frames, (M, L, 3, 3) Å with (M, 3, 3) boxes, moved; the same array if none is.

        ``book`` is about these frames.
        """
        ca = coordinates[:, :, 1]
        members = self._chains.values()
        centre = np.stack([np.nanmean(ca[:, member], axis=1) for member in members], axis=1)
        apart = np.einsum("mcx,mxy->mcy", centre - centre[:, :1], np.linalg.inv(boxes))
        before, images = self._last or (apart[0], np.zeros_like(apart[0]))
        turns = np.round(np.diff(apart, axis=0, prepend=before[None]))
        images = images - np.cumsum(turns, axis=0)
        self._last = apart[-1], images[-1]
        if not images.any():
            return coordinates
        shift = np.einsum("mcx,mxy->mcy", images, boxes)  # (M, C, 3) Å
        moved = coordinates.copy()
        for number, (chain, member) in enumerate(self._chains.items()):
            moved[:, member] += shift[:, None, None, number]
            for frame in np.flatnonzero(images[:, number].any(-1)):
                book.add("periodic image", f"chain {chain[0] or '-'}", "moved back", int(frame))
        return moved
