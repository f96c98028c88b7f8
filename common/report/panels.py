"""Panels that show points in space: equal aspect, no frame, a scale bar in place of ticks."""

from __future__ import annotations

import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

INK = "0.15"
"""Grey of bars and notes."""

_SHOWN_DPI = 100
_PADDING = 0.03  # of the extent, around the points
_FOOT = 0.13  # of the extent, below the points, for the scale bar


class ShownFigure(Figure):
    """A figure that a notebook shows where it is the last value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        """What IPython asks for."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_SHOWN_DPI, bbox_inches="tight")
        return buffer.getvalue()


def nice_length(extent: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most a quarter of ``extent``.

    Raises:
        ValueError: if ``extent`` is not positive and finite.
    """
    if not (math.isfinite(extent) and extent > 0):
        raise ValueError(f"extent must be positive and finite, got {extent}")
    most = extent / 4
    power = 10.0 ** math.floor(math.log10(most) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def bare(axis: Axes) -> None:
    """Equal aspect, no ticks and no frame: the pose of what is drawn means nothing."""
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def limits(*clouds: ArrayLike) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits (x, y) that hold every cloud (n, 2), with room for a scale bar below.

    Coordinates that are not finite are left out; without any the limits are those of a unit square.
    """
    points = np.concatenate([np.asarray(cloud, dtype=float).reshape(-1, 2) for cloud in clouds])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return (0.0, 1.0), (0.0, 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max()) or 1.0
    x = (float(low[0]) - _PADDING * extent, float(high[0]) + _PADDING * extent)
    y = (float(low[1]) - _FOOT * extent, float(high[1]) + _PADDING * extent)
    return x, y


def scale_bar(axis: Axes, length: float, label: str) -> None:
    """Draw a bar of ``length`` data units in the lower left corner, its label to the right.

    Call it after the limits are set; it stands in the room that :func:`limits` leaves.
    """
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    start = left + 0.02 * (right - left)
    height = bottom + 0.25 * _FOOT / (1 + _FOOT + _PADDING) * (top - bottom)
    axis.plot(
        [start, start + length], [height, height],
        color=INK, linewidth=2.5, solid_capstyle="butt", label="_scale bar",
    )  # fmt: skip
    axis.annotate(
        label, (start + length, height), xytext=(5, 0), textcoords="offset points",
        ha="left", va="center", color=INK, annotation_clip=False,
    )  # fmt: skip


def dot_size(
    xlim: tuple[float, float], ylim: tuple[float, float], count: int, inches: float
) -> float:
    """Area in square points of dots that nearly touch where ``count`` of them fill a panel.

    Args:
        xlim, ylim: limits of the panel.
        count: points drawn.
        inches: width of the panel.
    """
    width, height = xlim[1] - xlim[0], ylim[1] - ylim[0]
    spacing = math.sqrt(0.7 * width * height / max(count, 1)) / max(width, height)
    return float(np.clip((0.75 * spacing * inches * 72) ** 2, 1.0, 60.0))
