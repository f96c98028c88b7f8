"""Attention focus maps and the progression of coordinates over recycles.

Either has many small panels.  They are drawn as one cloud of points in one axis, each panel at its
own place: axes of their own take several times as long, and both are drawn in every validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure

from common.errors import UserError
from common.report.panels import INK, ShownFigure, bare, dot_size
from common.report.tables import number
from spatial_ipa.evaluation.plots.colours import MISSING, error_colours, position_colours
from spatial_ipa.evaluation.plots.layouts import superpose
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.model.trace import Trace

_PANEL = 2.0  # inches, width of a panel
_GAP = 0.06  # between panels, of their width
_HEAD = 0.24  # inches above the points, for a title of one line
_TITLE = 0.35  # inches above all panels
_LABEL = 0.9  # inches to the left, for the name of a cell, and to the right, for the colour bar
_DPI = 80  # where it is not said otherwise, as in the log of a training

PLACES: dict[str, tuple[float, float]] = {
    "centre": (0.5, 0.5),
    "lower left": (0.25, 0.25),
    "upper right": (0.75, 0.75),
    "upper left": (0.25, 0.75),
    "lower right": (0.75, 0.25),
}
"""Name of each place shown, and the quantiles of x and y it lies at."""


@dataclass(frozen=True, eq=False)
class _Panel:
    """A cloud: points (n, 2) within the common limits, their colours (n, 3), and a title."""

    points: np.ndarray
    colours: np.ndarray
    title: str


def focus_cells(xy: np.ndarray, count: int = len(PLACES)) -> dict[str, int]:
    """Cells to show, by place: those nearest to the median position and to the quartiles.

    A cell is taken once.  Nothing is drawn at random, and the order of the cells does not matter
    unless two are equally near.

    Args:
        xy: (n, 2) true positions.
        count: the first so many of :data:`PLACES`, or as many as there are cells.

    Raises:
        ValueError: if ``count`` is out of range.
    """
    if not 1 <= count <= len(PLACES):
        raise UserError(f"count must lie in [1, {len(PLACES)}], got {count}")
    points = np.asarray(xy, dtype=np.float64)
    chosen: dict[str, int] = {}
    for name, (across, up) in list(PLACES.items())[: min(count, len(points))]:
        place = np.quantile(points[:, 0], across), np.quantile(points[:, 1], up)
        distance = np.hypot(*(points - place).T)
        distance[list(chosen.values())] = np.inf
        chosen[name] = int(distance.argmin())
    return chosen


def focus_figure(trace: Trace, cells: Mapping[str, int] | None = None) -> Figure:
    """Whom a few cells attend to, on the true layout: a row per cell, a panel per head.

    The cell is a cross.  Each other is coloured by its weight over what even attention would give
    it (1: no preference), by the same colours in all panels, the largest hundredth alike; grey
    where there is no edge.  Titles give the share of attention that goes to true neighbours.

    Args:
        trace: of one slide.
        cells: numbers of cells of the trace, by name; :func:`focus_cells` when left out.
    """
    cells = focus_cells(trace.xy) if cells is None else cells
    seen = {cell: _over_even(trace, cell) for cell in cells.values()}
    known = np.concatenate([values[np.isfinite(values)] for values in seen.values()])
    top = max(float(np.quantile(known, 0.99)), 1.0) if len(known) else 1.0
    # The root shows what is little beside what is most.
    drawn = ScalarMappable(PowerNorm(0.5, 0.0, top, clip=True), error_colours())
    panels = [
        [
            _focus_panel(trace, values, drawn, f"head {head}: {share:.0%} on true")
            for head, (values, share) in enumerate(
                zip(seen[cell].T, trace.true_share(cell), strict=True)
            )
        ]
        for cell in cells.values()
    ]
    figure, axis, origins = _mosaic(panels, (_LABEL, _LABEL))
    crosses = np.array(
        [
            trace.xy[cell] + origin
            for cell, row in zip(cells.values(), origins, strict=True)
            for origin in row
        ]
    )
    axis.scatter(
        crosses[:, 0], crosses[:, 1], s=40, c=INK, marker="x", linewidths=1.2, label="_cells"
    )
    for (name, cell), row in zip(cells.items(), origins, strict=True):
        axis.annotate(
            f"{name}\ncell {trace.rows[cell]}", (axis.get_xlim()[0], row[0][1]), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="center", rotation=90,
            fontsize="small", annotation_clip=False,
        )  # fmt: skip
    width = figure.get_figwidth()
    place = ((width - _LABEL + 0.15) / width, 0.25, 0.12 / width, 0.5)
    figure.colorbar(
        drawn, cax=figure.add_axes(place), label="attention over even attention", extend="max",
        ticks=top * np.linspace(0, 1, 5) ** 2, format="%.1f",
    )  # fmt: skip
    figure.suptitle(trace.name, fontsize="large", weight="bold")
    return figure


def progression_figure(trace: Trace) -> Figure:
    """The layout at the start and after each recycle, cells in the colour of their true position.

    The first panel is the truth.  The others are superposed on it (similarity Procrustes), and
    their titles give the RMS error in RMS radii of the tissue.
    """
    colours = position_colours(trace.xy)
    panels = [_Panel(superpose(trace.xy, trace.xy)[1], colours, "true positions")]
    for r, layout in enumerate(trace.trajectory):
        name = f"recycle {r - 1}" if r else "start"
        error = number(procrustes_rmse(layout, trace.xy), 3)
        moved = superpose(layout, trace.xy)[0]
        panels.append(_Panel(moved, colours, f"{name}: RMSE {error}"))
    figure, _, _ = _mosaic([panels], (0.1, 0.1))
    figure.suptitle(trace.name, fontsize="large", weight="bold")
    return figure


def _over_even(trace: Trace, cell: int) -> np.ndarray:
    """(n, H) attention of a cell times its number of edges."""
    row = trace.row(cell)
    return trace.focus(cell) * (row.stop - row.start)


def _focus_panel(trace: Trace, values: np.ndarray, drawn: ScalarMappable, title: str) -> _Panel:
    """One head of one cell; what it attends to most is drawn last."""
    order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable")
    colours = np.asarray(drawn.to_rgba(np.nan_to_num(values)))[:, :3]
    colours[np.isnan(values)] = to_rgb(MISSING)
    return _Panel(trace.xy[order], colours[order], title)


def _mosaic(
    panels: Sequence[Sequence[_Panel]], margins: tuple[float, float]
) -> tuple[Figure, Axes, list[list[np.ndarray]]]:
    """Rows of panels in one axis whose unit is the width of a panel.

    Args:
        panels: rows of equal length.
        margins: inches to the left and to the right.

    Returns:
        The figure, its axis, and where in it the origin of each panel is.
    """
    every = np.concatenate([panel.points for row in panels for panel in row])
    low, high = every.min(axis=0), every.max(axis=0)
    across, up = np.maximum(high - low, 1e-6)
    head = _HEAD / _PANEL * across  # in the unit of the points
    step = np.array([(1 + _GAP) * across, -(up + head + _GAP * across)])
    rows, columns = len(panels), len(panels[0])
    origins = [[step * (column, row) for column in range(columns)] for row in range(rows)]
    size = np.array([columns * step[0], -rows * step[1]])
    inches = size / across * _PANEL
    width, height = inches[0] + sum(margins), inches[1] + _TITLE
    figure = ShownFigure(figsize=(width, height), dpi=_DPI)
    axis = figure.add_axes((margins[0] / width, 0, inches[0] / width, inches[1] / height))
    bare(axis)
    axis.set_xlim(low[0] - _GAP / 2 * across, low[0] - _GAP / 2 * across + size[0])
    axis.set_ylim(high[1] + head - size[1], high[1] + head)
    cloud = np.concatenate(
        [
            panel.points + origin
            for row, places in zip(panels, origins, strict=True)
            for panel, origin in zip(row, places, strict=True)
        ]
    )
    colours = np.concatenate([panel.colours for row in panels for panel in row])
    dots = dot_size((low[0], high[0]), (low[1], high[1]), len(panels[0][0].points), _PANEL)
    axis.scatter(cloud[:, 0], cloud[:, 1], s=dots, c=colours, linewidths=0, label="_panels")
    middle = (low[0] + high[0]) / 2
    for row, places in zip(panels, origins, strict=True):
        for panel, origin in zip(row, places, strict=True):
            right, above = origin
            axis.text(
                right + middle,
                above + high[1] + 0.3 * head,
                panel.title,
                ha="center",
                va="bottom",
                fontsize="small",
            )
    return figure, axis, origins
