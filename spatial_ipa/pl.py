"""Figures of placed cells; each returns a ``matplotlib.figure.Figure``, which shows itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import UserError
from spatial_ipa.evaluation.plots import position_colours

__all__ = ["layout", "uncertainty"]


def layout(adata: AnnData, color: str | None = None) -> Figure:
    """Where cells were placed.

    Args:
        adata: what :meth:`spatial_ipa.Placer.place` returned.
        color: column of ``obs`` to colour cells by, numbers or categories; their position if None.

    Raises:
        ValueError: if the cells were not placed, or there is no such column.

    Example:
        >>> import spatial_ipa
        >>> figure = spatial_ipa.pl.layout(example_placed)
        >>> figure.axes[0].get_title()
        'spatial_ipa'
    """
    xy, placed = _placed(adata)
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if color is None:
        _scatter(axis, xy[placed], position_colours(xy[placed]))
    elif color not in adata.obs:
        raise UserError(f"obs has no column {color!r}")
    elif np.issubdtype(np.asarray(adata.obs[color]).dtype, np.number):
        drawn = _scatter(axis, xy[placed], np.asarray(adata.obs[color])[placed])
        figure.colorbar(drawn, ax=axis, shrink=0.8, label=color)
    else:
        values = np.asarray(adata.obs[color].astype(str))
        for value in sorted(set(values[placed])):
            _scatter(axis, xy[placed & (values == value)], None, label=value)
        axis.legend(title=color, fontsize="small")
    axis.set_title("spatial_ipa")
    return figure


def uncertainty(adata: AnnData) -> Figure:
    """How well positions are known: spread over draws and, where there are any, error radii.

    Args:
        adata: what :meth:`spatial_ipa.Placer.place` returned.

    Raises:
        ValueError: if the cells were not placed.

    Example:
        >>> import spatial_ipa
        >>> figure = spatial_ipa.pl.uncertainty(example_placed)
        >>> [axis.get_title() for axis in figure.axes[:1]]
        ['spread over draws']
    """
    xy, placed = _placed(adata)
    shown = {"spatial_ipa_uncertainty": "spread over draws", "spatial_ipa_radius": "error radius"}
    shown = {column: title for column, title in shown.items() if column in adata.obs}
    figure = Figure(figsize=(4.8 * len(shown), 4.4), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (column, title) in zip(axes, shown.items(), strict=True):
        drawn = _scatter(axis, xy[placed], np.asarray(adata.obs[column])[placed], cmap="magma")
        figure.colorbar(drawn, ax=axis, shrink=0.8, label="RMS radii of the layout")
        axis.set_title(title)
    return figure


def _placed(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 2), and which cells have any (n,)."""
    if "X_spatial_ipa" not in adata.obsm:
        raise UserError("obsm has no 'X_spatial_ipa': place the cells first")
    xy = np.asarray(adata.obsm["X_spatial_ipa"])
    return xy, np.isfinite(xy).all(axis=1)


def _scatter(axis: Axes, xy: np.ndarray, colours: np.ndarray | None, **options: Any) -> Any:
    """Draw points (n, 2) without ticks; what a colour bar needs."""
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    size = float(np.clip(4000 / max(len(xy), 1), 1.5, 30))
    return axis.scatter(xy[:, 0], xy[:, 1], s=size, c=colours, **options)
