"""How far expression fixes position on one slide: where, and the symmetry indices."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from common.report.panels import bare, dot_size, limits
from spatial_ipa.confidence.identifiability import SYMMETRIC, Identifiability
from spatial_ipa.evaluation.plots.colours import MISSING
from spatial_ipa.evaluation.plots.layouts import PANEL, superpose

_TWO_GROUPS = "#d1420e"


def identifiability_figure(name: str, true: np.ndarray, found: Identifiability) -> Figure:
    """A slide's ambiguity on its true layout, its multimodal spots, and its symmetry indices."""
    figure = Figure(figsize=(3.6 * PANEL, 1.2 * PANEL), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    x = superpose(true, true)[1]
    xlim, ylim = limits(x)
    size = dot_size(xlim, ylim, len(x), PANEL)
    drawn = left.scatter(
        x[:, 0], x[:, 1], s=size, c=found.ambiguity, cmap="viridis", vmin=0, vmax=1.2, linewidths=0
    )
    figure.colorbar(drawn, ax=left, shrink=0.75, label="ambiguity (1: expression tells nothing)")
    left.set_title(f"{name}: ambiguity {found.overall:.2f}\n(least possible {found.floor:.2f})")
    middle.scatter(
        x[:, 0], x[:, 1], s=size, c=np.where(found.multimodal, _TWO_GROUPS, MISSING), linewidths=0
    )
    middle.set_title(f"{found.multimodal.mean():.0%} of spots look like\ntwo places far apart")
    for axis in (left, middle):
        bare(axis)
        axis.set_xlim(*xlim)
        axis.set_ylim(*ylim)
    angle = 180.0 * np.arange(len(found.mirror)) / len(found.mirror)
    right.plot(angle, found.mirror, "o-", color="C0", markersize=4, label="mirror axes")
    right.axhline(found.half_turn, color="C1", linestyle=":", label="half-turn")
    right.axhline(SYMMETRIC, color="0.3", linestyle="--", label="symmetric from here")
    right.set_xlabel("degrees from the longest axis")
    right.set_ylabel("symmetry index")
    right.set_title(f"verdict: {found.verdict}")
    right.legend(fontsize="small")
    for axis in (left, middle, right):
        axis.title.set_fontsize("medium")
    return figure
