"""Figures: true beside predicted layout, the uncertainty of each cell, identifiability."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from common.align import align
from spatial_ipa.confidence.identifiability import SYMMETRIC, Identifiability
from spatial_ipa.geometry.gauge import gauge_fix


def superpose(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both layouts (n, 2) gauge-fixed, the prediction turned and scaled onto the truth."""
    mobile = gauge_fix(torch.as_tensor(np.array(pred), dtype=torch.float32))
    target = gauge_fix(torch.as_tensor(np.array(true), dtype=torch.float32))
    fit = align(mobile, target, scale=True, reflection=True)
    return fit.apply(mobile).numpy(), target.numpy()


def position_colours(xy: np.ndarray) -> np.ndarray:
    """(n, 3) RGB that varies smoothly with true position, so that misplaced cells stand out."""
    low, high = xy.min(0), xy.max(0)
    u, v = ((xy - low) / np.maximum(high - low, 1e-12)).T
    rgb: np.ndarray = np.stack(
        [0.15 + 0.8 * u, 0.25 + 0.5 * (1 - np.abs(u - v)), 0.15 + 0.8 * v], 1
    )
    return rgb


def layout_figure(
    name: str,
    true: np.ndarray,
    layouts: dict[str, np.ndarray],
    spread: np.ndarray | None = None,
) -> Figure:
    """True layout and predictions in one row, every cell in the colour of its true position.

    Args:
        name: of the slide.
        true: (n, 2) true coordinates.
        layouts: predicted coordinates (n, 2) by title.
        spread: (n,) uncertainty of the first prediction, drawn in a last panel.
    """
    panels = 1 + len(layouts) + (spread is not None)
    figure = Figure(figsize=(3.4 * panels, 3.7), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    size = float(np.clip(4000 / len(true), 1.5, 30))
    colours = position_colours(true)
    first: np.ndarray | None = None
    target = superpose(true, true)[1]
    axes[0].scatter(*target.T, s=size, c=colours)
    axes[0].set_title(f"{name}: true")
    for axis, (title, layout) in zip(axes[1:], layouts.items(), strict=False):
        moved, _ = superpose(layout, true)
        first = moved if first is None else first
        axis.scatter(*moved.T, s=size, c=colours)
        axis.set_title(title)
    if spread is not None and first is not None:
        drawn = axes[-1].scatter(*first.T, s=size, c=spread, cmap="magma")
        figure.colorbar(drawn, ax=axes[-1], shrink=0.8, label="spread (RMS radii)")
        axes[-1].set_title("uncertainty")
    for axis in axes:
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def identifiability_figure(name: str, true: np.ndarray, found: Identifiability) -> Figure:
    """A slide's ambiguity on its true layout, its multimodal spots, and its symmetry indices."""
    figure = Figure(figsize=(11.0, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    size = float(np.clip(4000 / len(true), 1.5, 30))
    x = superpose(true, true)[1]
    drawn = left.scatter(*x.T, s=size, c=found.ambiguity, cmap="viridis", vmin=0, vmax=1.2)
    figure.colorbar(drawn, ax=left, shrink=0.8, label="1 = expression tells nothing")
    left.set_title(f"{name}: ambiguity {found.overall:.2f} (least {found.floor:.2f})")
    middle.scatter(*x.T, s=size, c=np.where(found.multimodal, "tab:red", "lightgrey"))
    middle.set_title(f"multimodal: {found.multimodal.mean():.0%} of spots")
    for axis in (left, middle):
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    angle = 180.0 * np.arange(len(found.mirror)) / len(found.mirror)
    right.plot(angle, found.mirror, "o-", label="mirror axes")
    right.axhline(found.half_turn, color="tab:green", linestyle=":", label="half-turn")
    right.axhline(SYMMETRIC, color="tab:red", linestyle="--", label="symmetric from here")
    right.set_xlabel("degrees from the longest axis")
    right.set_ylabel("symmetry index")
    right.set_title(found.verdict)
    right.legend(fontsize="small")
    return figure
