"""Figures of placed cells, and of how they came there.

Each returns a matplotlib ``Figure`` that a notebook shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from common.errors import UserError
from spatial_ipa.evaluation.plots.attention import focus_figure, progression_figure
from spatial_ipa.evaluation.plots.confidence import (
    TISSUE,
    confidence_maps,
    layout_scale,
    radius_map,
    spread_map,
)
from spatial_ipa.evaluation.plots.layouts import (
    CellMap,
    category_figure,
    layout_figure,
    map_figure,
    placed_figure,
    rms_radius,
)
from spatial_ipa.geometry.gauge import checked_layout
from spatial_ipa.model.trace import Trace

__all__ = ["comparison", "focus", "layout", "progression", "uncertainty"]

_MILLIMETRE = 1000.0  # µm


def layout(adata: AnnData, color: str | None = None) -> Figure:
    """Where cells were placed.

    Args:
        adata: what :meth:`spatial_ipa.Placer.place` returned.
        color: column of ``obs`` to colour cells by, numbers or categories.  None colours them by
            position: the true one if ``obsm["spatial"]`` holds it, else that in the layout.

    Raises:
        ValueError: if the cells were not placed, or there is no such column.

    Example:
        >>> import spatial_ipa
        >>> figure = spatial_ipa.pl.layout(example_placed)
        >>> figure.axes[0].get_title()
        'placed cells, n = 80'
    """
    xy, placed = _placed(adata)
    title = f"placed cells, n = {placed.sum():,}"
    if color is None:
        true = np.asarray(adata.obsm["spatial"])[placed] if "spatial" in adata.obsm else None
        return placed_figure(title, xy[placed], true)
    if color not in adata.obs:
        raise UserError(f"obs has no column {color!r}; it has {', '.join(map(str, adata.obs))}")
    column = adata.obs[color]
    values = np.asarray(column)[placed]
    if np.issubdtype(values.dtype, np.number):
        return map_figure(xy[placed], [CellMap(title, values, color)])
    return category_figure(title, xy[placed], values.astype(str), color)


def comparison(
    adata: AnnData,
    true: ArrayLike | None = None,
    *,
    name: str = "tissue",
    spatial_key: str = "spatial",
    micrometres: float | None = None,
) -> Figure:
    """True beside predicted positions, each cell in the colour of its true position, and its error.

    The prediction is superposed on the truth (turned, mirrored, scaled), so one scale bar holds for
    all panels.  The last one shows error radii, or the spread over draws where there are none.

    Args:
        adata: what :meth:`spatial_ipa.Placer.place` returned.
        true: (n, 2) true coordinates; ``obsm[spatial_key]`` if None.
        name: of the slide, for the title.
        spatial_key: where ``adata`` has true coordinates.
        micrometres: length of one unit of the true coordinates in µm; without it lengths are in
            RMS radii of the tissue.

    Raises:
        ValueError: if the cells were not placed, or true coordinates are missing or do not fit.

    Example:
        >>> import spatial_ipa
        >>> figure = spatial_ipa.pl.comparison(example_placed, name="slide_3")
        >>> figure.axes[0].get_title()
        'true positions\\nn = 80'
    """
    xy, placed = _placed(adata)
    if true is None:
        if spatial_key not in adata.obsm:
            raise UserError(
                f"obsm has no {spatial_key!r}: give the true coordinates as true, or spatial_key"
            )
        true = np.asarray(adata.obsm[spatial_key])
    if len(np.asarray(true)) != len(xy):
        raise UserError(f"true has {len(np.asarray(true))} rows, adata has {len(xy)} cells")
    known = checked_layout("true", np.asarray(true)[placed])
    if micrometres is not None and not micrometres > 0:
        raise UserError(f"micrometres must be positive, got {micrometres}")
    scale, unit = layout_scale(_settings(adata)), TISSUE
    if micrometres is not None:
        scale, unit = scale * micrometres * rms_radius(known) / _MILLIMETRE, "mm"
    shown = radius_map(adata.obs, _settings(adata), placed, scale, unit)
    shown = spread_map(adata.obs, placed) if shown is None else shown
    return layout_figure(name, known, {"predicted": xy[placed]}, shown, micrometres)


def uncertainty(adata: AnnData) -> Figure:
    """How well positions are known: error radii, spread over draws, ambiguity of the expression.

    A panel for each of them that ``obs`` holds; cells that the model abstained from are crosses.

    Args:
        adata: what :meth:`spatial_ipa.Placer.place` returned.

    Raises:
        ValueError: if the cells were not placed.

    Example:
        >>> import spatial_ipa
        >>> figure = spatial_ipa.pl.uncertainty(example_placed)
        >>> figure.axes[0].get_title().splitlines()[0]
        'error radius that holds 90%'
    """
    xy, placed = _placed(adata)
    return map_figure(xy[placed], confidence_maps(adata.obs, _settings(adata), placed))


def focus(trace: Trace, cells: Mapping[str, int] | None = None) -> Figure:
    """Whom a few cells attend to in the last recycle, on the true layout, by head.

    A row per cell, a panel per head.  The cell is a cross; colour is its attention over what even
    attention would give, grey where it does not look.  Titles give the share of attention that
    goes to true neighbours.

    Args:
        trace: what :meth:`spatial_ipa.Placer.trace` returned.
        cells: numbers of cells in the trace, by name; those at the centre and at the quartiles of
            both coordinates if None.

    Raises:
        ValueError: if there is no such cell.

    Example:
        >>> import spatial_ipa
        >>> trace = spatial_ipa.load(example_checkpoint).trace(example_adata)
        >>> figure = spatial_ipa.pl.focus(trace, {"first": 0})
        >>> [text.get_text()[:6] for text in figure.axes[0].texts]
        ['head 0', 'head 1', 'head 2', 'head 3', 'first\\n']
    """
    return focus_figure(trace, None if cells is None else dict(cells))


def progression(trace: Trace) -> Figure:
    """The layout at the start and after each recycle, beside the truth, in its colours.

    Args:
        trace: what :meth:`spatial_ipa.Placer.trace` returned.

    Example:
        >>> import spatial_ipa
        >>> trace = spatial_ipa.load(example_checkpoint).trace(example_adata)
        >>> figure = spatial_ipa.pl.progression(trace)
        >>> [text.get_text().split(":")[0] for text in figure.axes[0].texts[:3]]
        ['true positions', 'start', 'recycle 0']
    """
    return progression_figure(trace)


def _placed(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 2), and which cells have any (n,)."""
    if "X_spatial_ipa" not in adata.obsm:
        raise UserError("obsm has no 'X_spatial_ipa': place the cells first")
    xy = np.asarray(adata.obsm["X_spatial_ipa"])
    return xy, np.isfinite(xy).all(axis=1)


def _settings(adata: AnnData) -> Mapping[str, Any]:
    return adata.uns.get("spatial_ipa", {})
