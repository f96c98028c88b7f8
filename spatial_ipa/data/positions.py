"""Coordinates: where they may be kept, and which of them cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from spatial_ipa.data.keys import SlideKeys

_SHARED = 5  # spots at one position that are no accident
_SHARED_PART = 0.05  # of all spots, that share their position with another


def coordinate_columns(key: str) -> list[str]:
    """The two columns of ``obs`` that a ``spatial_key`` names; empty where it names none."""
    names = [name.strip() for name in key.split(",")]
    return names if len(names) == 2 and all(names) else []


def position_pairs(columns: Sequence[str]) -> list[str]:
    """Pairs of columns that look like positions, x first, as ``spatial_key`` takes them.

    Two names are a pair if one becomes the other by x to y, or by col or column to row, as
    ``x_centroid`` (Xenium), ``center_x`` (MERSCOPE), ``CenterX_global_px`` (CosMx),
    ``pxl_col_in_fullres`` and ``imagecol`` (Visium).
    """
    there, pairs = set(columns), []
    for name in columns:
        partners = [
            name[:i] + {"x": "y", "X": "Y"}[letter] + name[i + 1 :]
            for i, letter in enumerate(name)
            if letter in "xX"
        ]
        for col, row in (("column", "row"), ("col", "row"), ("Col", "Row")):
            partners.append(name.replace(col, row))
        pairs += [f"{name},{p}" for p in partners if p != name and p in there]
    return list(dict.fromkeys(pairs))


def missing_coordinates(
    keys: SlideKeys, held: Sequence[str], columns: Sequence[str], source: str
) -> None:
    """Refuse a slide without the coordinates asked for, with those that it has.

    Args:
        keys: where they should be.
        held: keys of ``obsm``.
        columns: of ``obs``.
        source: what to call the slide.

    Raises:
        ValueError: if they are neither in ``obsm`` nor two columns of ``obs``.
    """
    key = keys.coordinates
    if key in held:
        return
    named = coordinate_columns(key)
    pairs = [pair for pair in position_pairs(columns) if "array" not in pair]
    pairs += [pair for pair in position_pairs(columns) if "array" in pair]
    offered = (
        f"; obs has {', '.join(pairs)}: take them with spatial_key={pairs[0]}" if pairs else ""
    )
    if named:
        absent = [name for name in named if name not in columns]
        if not absent:
            return
        raise UserError(
            f"{source}: obs has no column {' and no column '.join(map(repr, absent))} to take "
            f"coordinates from (spatial_key={key}){offered}"
        )
    raise UserError(
        f"{source}: coordinates obsm[{key!r}] are missing (obsm has {sorted(held)}){offered}"
        "; name the right key with spatial_key, or leave the file out of training"
    )


def checked_xy(xy: Any, where: str, num_rows: int) -> np.ndarray:
    """(n, 2) float32, finite.

    Raises:
        ValueError: if they are something else, naming ``where``.
    """
    array = np.asarray(xy)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where} must hold numbers, got dtype {array.dtype}")
    if array.shape != (num_rows, 2):
        hint = ""
        if array.ndim == 2 and array.shape[1] == 3:
            hint = "; three columns are ambiguous (a volume? a section index?): store the two "
            hint += "in-plane coordinates of one section"
        raise UserError(f"{where} must have shape ({num_rows}, 2), got {array.shape}{hint}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = int((~np.isfinite(array)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{where} has {bad} spots with NaN or infinite coordinates; drop them from the file"
        )
    return array


def in_plane(xy: Any) -> tuple[Any, str]:
    """Coordinates without a third column that is the same for all, and what to say about it."""
    array = np.asarray(xy)
    if array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind in "iuf" and len(array):
        flat = [column for column in range(3) if (array[:, column] == array[0, column]).all()]
        if len(flat) == 1:
            said = f"coordinate {flat[0] + 1} of 3 is the same for all spots and left out"
            return np.delete(array, flat[0], axis=1), said
    return xy, ""


def coincident(xy: np.ndarray) -> np.ndarray:
    """(n,) how many spots lie at the position of each, itself included."""
    _, inverse, sizes = np.unique(xy, axis=0, return_inverse=True, return_counts=True)
    found: np.ndarray = sizes[inverse.ravel()]
    return found


def without_coincident(xy: np.ndarray, where: str, *, drop: bool) -> tuple[np.ndarray, str]:
    """Which spots have a position of their own, and what to say about the others.

    A few spots in pairs are an accident of rounding, and kept.

    Args:
        xy: (n, 2).
        where: what to call it in a message.
        drop: leave out all that share their position with another.

    Returns:
        (n,) bool, and "" where all are kept.

    Raises:
        ValueError: unless ``drop``, if five or more lie at one position, or more than 5 % of all
            spots share theirs: fillers for positions that are not known, or sections in one frame.
    """
    size = coincident(xy)
    shared = size > 1
    worst = int(size.max(initial=0))
    if worst == len(xy) > 1:
        raise UserError(f"{where} has all spots at one position {xy[0]}")
    if drop and shared.any():
        return ~shared, f"left out {int(shared.sum())} of {len(xy)} spots that share their position"
    if worst >= _SHARED or shared.mean() > _SHARED_PART:
        x, y = xy[size.argmax()]
        raise UserError(
            f"{where} has {int(shared.sum())} of {len(xy)} spots that share their position with "
            f"another, {worst} of them at ({x:g}, {y:g}): cells whose position is not known, or "
            "sections in one frame; leave them out with drop_coincident, or split sections with "
            "section_key"
        )
    return np.ones(len(xy), dtype=bool), ""
