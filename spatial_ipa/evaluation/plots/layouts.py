"""True beside predicted layout, and maps of how well positions are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from common.align import align
from common.report.panels import (
    INK,
    ShownFigure,
    bare,
    dot_size,
    limits,
    nice_length,
    scale_bar,
)
from common.report.tables import number
from spatial_ipa.evaluation.plots.colours import (
    MISSING,
    category_colours,
    error_colours,
    position_colours,
)
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.metrics import distance_spearman, procrustes_rmse

PANEL = 3.0
"""Inches, width of a panel."""

_MILLIMETRE = 1000.0  # µm
_TOP = 0.99  # of the values; a few beyond have the last colour, so that the others differ


@dataclass(frozen=True, eq=False)
class CellMap:
    """One number per cell, drawn as a map.

    Attributes:
        title: of the panel.
        values: (n,), NaN where there is none.
        label: of the colour bar, with the unit.
        abstained: (n,) bool, cells drawn as crosses; None for none.
    """

    title: str
    values: np.ndarray
    label: str
    abstained: np.ndarray | None = None


def superpose(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both layouts (n, 2) gauge-fixed, the prediction turned and scaled onto the truth."""
    mobile = gauge_fix(torch.as_tensor(np.array(pred), dtype=torch.float32))
    target = gauge_fix(torch.as_tensor(np.array(true), dtype=torch.float32))
    fit = align(mobile, target, scale=True, reflection=True)
    return fit.apply(mobile).numpy(), target.numpy()


def rms_radius(xy: np.ndarray) -> float:
    """Root mean square distance of points (n, 2) from their mean, in their own unit."""
    points = np.asarray(xy, dtype=np.float64)
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def layout_figure(
    name: str,
    true: np.ndarray,
    layouts: Mapping[str, np.ndarray],
    map_of_first: CellMap | None = None,
    micrometres: float | None = None,
) -> Figure:
    """True layout and predictions in one row, every cell in the colour of its true position.

    Predictions are superposed on the truth (similarity Procrustes), so that one scale bar, in the
    first panel, holds for all.  Their titles give the Spearman correlation of all pairwise
    distances and the RMS error in RMS radii of the tissue.

    Args:
        name: of the slide.
        true: (n, 2) true coordinates.
        layouts: predicted coordinates (n, 2) by title.
        map_of_first: drawn on the first prediction in a last panel; lengths in RMS radii.
        micrometres: per unit of ``true``, for the scale bar; without it the bar is a share of the
            RMS radius.
    """
    moved = {title: superpose(layout, true)[0] for title, layout in layouts.items()}
    target = superpose(true, true)[1]
    xlim, ylim = limits(target, *moved.values())
    panels = 1 + len(moved) + (map_of_first is not None)
    figure, axes = _row(panels, xlim, ylim)
    size = dot_size(xlim, ylim, len(target), PANEL)
    colours = position_colours(target)
    axes[0].scatter(target[:, 0], target[:, 1], s=size, c=colours, linewidths=0)
    axes[0].set_title(f"true positions\nn = {len(target):,}")
    radius = None if micrometres is None else micrometres * rms_radius(true)
    _add_scale_bar(axes[0], "tissue", radius)
    for axis, (title, layout) in zip(axes[1:], moved.items(), strict=False):
        axis.scatter(layout[:, 0], layout[:, 1], s=size, c=colours, linewidths=0)
        spearman = number(_spearman(layouts[title], true), 2, "undefined")
        error = number(procrustes_rmse(layouts[title], true), 2)
        axis.set_title(f"{title}\nSpearman {spearman}, RMSE {error} radii")
    if map_of_first is not None:
        draw_map(axes[-1], next(iter(moved.values())), map_of_first, size)
    figure.suptitle(name, fontsize="large", weight="bold")
    return figure


def placed_figure(title: str, xy: np.ndarray, true: np.ndarray | None = None) -> Figure:
    """One layout (n, 2), coloured by true position, which a small panel shows, or by its own.

    Args:
        title: of the panel.
        xy: of RMS radius 1.
        true: (n, 2), any unit and pose; None where it is not known.
    """
    xlim, ylim = limits(xy)
    ratios = [1.0] if true is None else [1.0, 0.4]
    figure, axes = _row(len(ratios), xlim, ylim, ratios, 1.4 * PANEL)
    size = dot_size(xlim, ylim, len(xy), 1.4 * PANEL)
    colours = position_colours(xy if true is None else true)
    axes[0].scatter(xy[:, 0], xy[:, 1], s=size, c=colours, linewidths=0)
    axes[0].set_title(title)
    _add_scale_bar(axes[0], "layout")
    if true is not None:
        key_limits = limits(true)
        axes[1].set_xlim(*key_limits[0])
        axes[1].set_ylim(*key_limits[1])
        small = dot_size(*key_limits, len(true), 0.56 * PANEL)
        axes[1].scatter(true[:, 0], true[:, 1], s=small, c=colours, linewidths=0)
        axes[1].set_title("colour: true position", fontsize="small")
    return figure


def category_figure(title: str, xy: np.ndarray, names: np.ndarray, label: str) -> Figure:
    """One layout (n, 2) of RMS radius 1, coloured by the name (n,) of each cell's category."""
    xlim, ylim = limits(xy)
    figure, (axis,) = _row(1, xlim, ylim, width=1.4 * PANEL)
    size = dot_size(xlim, ylim, len(xy), 1.4 * PANEL)
    shown = sorted(set(names.tolist()))
    for name, colour in zip(shown, category_colours(len(shown)), strict=True):
        axis.scatter(
            xy[names == name, 0],
            xy[names == name, 1],
            s=size,
            color=colour,
            linewidths=0,
            label=name,
        )
    axis.set_title(title)
    axis.legend(title=label, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _add_scale_bar(axis, "layout")
    return figure


def map_figure(xy: np.ndarray, maps: Sequence[CellMap]) -> Figure:
    """Maps on one layout (n, 2) of RMS radius 1, a panel each."""
    xlim, ylim = limits(xy)
    figure, axes = _row(len(maps), xlim, ylim)
    size = dot_size(xlim, ylim, len(xy), PANEL)
    for axis, shown in zip(axes, maps, strict=True):
        draw_map(axis, xy, shown, size)
    _add_scale_bar(axes[0], "layout")
    return figure


def draw_map(axis: Axes, xy: np.ndarray, shown: CellMap, size: float) -> PathCollection:
    """Cells (n, 2) in the colours of their values, with a colour bar; grey where there is none."""
    values = np.asarray(shown.values, dtype=np.float64)
    crossed = np.zeros(len(xy), bool) if shown.abstained is None else shown.abstained
    known = np.isfinite(values) & ~crossed
    unknown = ~known & ~crossed
    if unknown.any():
        axis.scatter(xy[unknown, 0], xy[unknown, 1], s=size, c=MISSING, linewidths=0)
    # Large values last, so that they are not hidden.
    order = np.flatnonzero(known)[np.argsort(values[known], kind="stable")]
    top = float(np.quantile(values[known], _TOP)) if known.any() else None
    drawn = axis.scatter(
        xy[order, 0], xy[order, 1],
        s=size, c=values[order], cmap=error_colours(), vmax=top, linewidths=0,
    )  # fmt: skip
    if crossed.any():
        axis.scatter(
            xy[crossed, 0], xy[crossed, 1], s=0.6 * size, c=INK, marker="x", linewidths=0.8
        )
    figure = axis.figure
    beyond = bool(known.any()) and float(values[known].max()) > (top or 0.0)
    figure.colorbar(
        drawn, ax=axis, shrink=0.75, aspect=22, label=shown.label,
        extend="max" if beyond else "neither",
    )  # fmt: skip
    note = "" if shown.abstained is None else f"\n× abstained: {crossed.sum():,} of {len(xy):,}"
    axis.set_title(shown.title + note)
    return drawn


def _row(
    panels: int,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    ratios: Sequence[float] | None = None,
    width: float = PANEL,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side with these limits; ``width`` is that of one of ratio 1."""
    ratios = [1.0] * panels if ratios is None else ratios
    tall = min(max((ylim[1] - ylim[0]) / (xlim[1] - xlim[0]), 0.5), 1.6)
    figure = ShownFigure(
        figsize=(width * sum(ratios) + 0.3, width * tall + 0.75), layout="constrained"
    )
    axes = list(figure.subplots(1, panels, squeeze=False, width_ratios=ratios)[0])
    for axis in axes:
        bare(axis)
        axis.set_xlim(*xlim)
        axis.set_ylim(*ylim)
        axis.title.set_fontsize("medium")
    return figure, axes


def _add_scale_bar(axis: Axes, what: str, radius: float | None = None) -> None:
    """A bar in a panel in RMS radii of ``what``; one is ``radius`` µm, None if not known."""
    left, right = axis.get_xlim()
    if radius is None:
        length = nice_length(right - left)
        scale_bar(axis, length, f"{length:g} RMS radii of the {what}")
        return
    length = nice_length((right - left) * radius)
    label = f"{length / _MILLIMETRE:g} mm" if length >= _MILLIMETRE else f"{length:g} µm"
    scale_bar(axis, length / radius, label)


def _spearman(pred: np.ndarray, true: np.ndarray) -> float:
    return distance_spearman(pred, true) if len(true) > 2 else math.nan
