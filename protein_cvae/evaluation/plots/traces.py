"""Superposed CA traces coloured from N to C, and how far each residue moves.

Ensembles come as CA coordinates (M, L, 3) in Å by title, the real one first; all are superposed
(Kabsch) on the mean of the first over its rigid core and seen along its principal axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from common.align import align
from common.report.panels import INK, ShownFigure, bare, limits, nice_length, scale_bar
from protein_cvae.generation.outputs import superposing
from protein_cvae.geometry.superposition import superpose_on_mean

Array = NDArray[np.float64]

_DRAWN = 20  # conformers per panel
_PANEL = 3.0  # inches
_VIEWS = ((0, 1, 2), (0, 2, 1))  # principal axes to the right, upwards, and along which one looks
_PROFILES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito


@dataclass(frozen=True, eq=False)
class Residues:
    """What the figures say about L residues.

    Attributes:
        numbers: (L,) of the file, which the colours follow.
        bonded: (L,) bool, peptide bond to the next; traces break where it is False.
        core: (L,) bool, the rigid core; all residues are superposed if fewer than four are.
        label: of the colour bar and the axis.
    """

    numbers: Array
    bonded: Tensor
    core: Tensor
    label: str = "residue number"

    @staticmethod
    def of(numbers: Tensor, bonded: Tensor, core: Tensor | None = None) -> Residues:
        """With the numbers of the file where they ascend, else counted from 1; core None is all."""
        core = torch.ones_like(bonded) if core is None else core
        if len(numbers) > 1 and not bool((numbers.diff() > 0).all()):
            counted = np.arange(1.0, len(numbers) + 1)
            return Residues(counted, bonded, core, "residue, counted from 1")
        return Residues(numbers.double().numpy(), bonded, core)


def superposed(ensembles: Mapping[str, Tensor], core: Tensor | None = None) -> dict[str, Array]:
    """(M, L, 3) of each ensemble on the mean of the first, turned to its principal axes."""
    first = next(iter(ensembles.values())).double()
    weights = None if core is None else _superposing(core).to(first)
    _, mean = superpose_on_mean(first, weights)
    centre = mean.mean(0)
    _, _, axes = torch.linalg.svd(mean - centre, full_matrices=False)
    if torch.linalg.det(axes) < 0:  # a rotation: a mirror image is another molecule
        axes = axes * axes.new_tensor([1.0, 1.0, -1.0])[:, None]
    turned = {}
    for title, conformers in ensembles.items():
        x = conformers.double()
        each = None if weights is None else weights.expand(x.shape[:2])
        x = align(x, mean.expand_as(x), each).apply(x)
        turned[title] = ((x - centre) @ axes.mT).numpy()
    return turned


def profile(conformers: Tensor, core: Tensor) -> Array:
    """(L,) Å, RMSF of each CA about the mean of the models (M, L, 3) superposed on the core."""
    moved, mean = superpose_on_mean(conformers.double(), _superposing(core).double())
    fluctuation: Array = (moved - mean).square().sum(-1).mean(0).sqrt().numpy()
    return fluctuation


def traces_figure(
    name: str,
    ensembles: Mapping[str, Tensor],
    residues: Residues,
    views: int = 2,
    flexibility: bool = False,
) -> Figure:
    """Traces of at most 20 models each, a column per ensemble, all at one scale.

    Args:
        name: of the protein.
        ensembles: (M, L, 3) by title.
        residues: of all of them.
        views: 1 for the view along the shortest principal axis, 2 for one along the second, too.
        flexibility: also draw the RMSF of each residue, at the right.
    """
    turned = superposed(ensembles, residues.core)
    shown = {title: x[_some(len(x))] for title, x in turned.items()}
    frames = [
        limits(*(x[..., list(view[:2])].reshape(-1, 2) for x in shown.values()))
        for view in _VIEWS[:views]
    ]
    heights = [(y[1] - y[0]) / (frames[0][0][1] - frames[0][0][0]) for _, y in frames]
    columns, beside = len(shown), 1.25 if flexibility else 0.0
    figure = ShownFigure(
        figsize=(_PANEL * (columns + beside) + 0.8, _PANEL * max(sum(heights), 0.8) + 0.8),
        layout="constrained",
    )
    ratios = [columns + 0.3, *([beside] if flexibility else [])]
    # Parts of their own, so that neither takes room from the other.
    left, *right = figure.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    panels = left.subplots(views, columns, squeeze=False, height_ratios=heights)
    colours, scale = _from_n_to_c(), Normalize(residues.numbers[0], residues.numbers[-1])
    for row, view, frame in zip(panels, _VIEWS, frames, strict=False):
        for axis, x in zip(row, shown.values(), strict=True):
            bare(axis)
            axis.set_xlim(*frame[0])
            axis.set_ylim(*frame[1])
            axis.add_collection(_lines(x[..., list(view)], residues, colours, scale))
            for end, letter in ((0, "N"), (-1, "C")):
                axis.annotate(
                    letter, x[:, end, list(view[:2])].mean(0), weight="bold", color=INK,
                    ha="center", va="center",
                    bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.7},
                )  # fmt: skip
    for axis, (title, x) in zip(panels[0], shown.items(), strict=True):
        count = len(turned[title])
        drawn = "" if len(x) == count else f", {len(x)} drawn"
        axis.set_title(f"{title}\n{count} models{drawn}", fontsize="medium")
    length = nice_length(frames[0][0][1] - frames[0][0][0])
    scale_bar(panels[0][0], length, f"{length:g} Å")
    bar = left.colorbar(
        ScalarMappable(scale, colours), ax=list(panels.flat),
        label=f"{residues.label}, N to C", shrink=0.75, aspect=25,
    )  # fmt: skip
    bar.set_ticks(_ticks(residues.numbers))
    for part in right:
        axis = part.subplots()
        draw_profiles(axis, ensembles, residues)
        axis.set_title("flexibility", fontsize="medium")
    figure.suptitle(
        f"{name}: CA traces superposed on the ordered core", fontsize="large", weight="bold"
    )
    return figure


def rmsf_figure(name: str, ensembles: Mapping[str, Tensor], residues: Residues) -> Figure:
    """RMSF of each residue about the mean of the models superposed on the core, which is shaded."""
    figure = ShownFigure(figsize=(7.0, 3.2), layout="constrained")
    axis = figure.subplots()
    draw_profiles(axis, ensembles, residues)
    axis.set_title(f"{name}: flexibility, models superposed on the ordered core")
    return figure


def draw_profiles(axis: Axes, ensembles: Mapping[str, Tensor], residues: Residues) -> None:
    """RMSF of each ensemble, the first in black, with a gap where the chain breaks."""
    broken = np.flatnonzero(~residues.bonded[:-1].numpy()) + 1
    numbers = np.insert(residues.numbers, broken, np.nan)
    for number, (title, conformers) in enumerate(ensembles.items()):
        values = np.insert(profile(conformers, residues.core), broken, np.nan)
        colour = "black" if number == 0 else _PROFILES[(number - 1) % len(_PROFILES)]
        axis.plot(numbers, values, label=title, color=colour, linewidth=1.6 if number == 0 else 1.3)
    core = residues.core.numpy()
    handles: list[Artist] = list(axis.lines)
    if not core.all():
        handles.append(Patch(facecolor="0.9", edgecolor="0.6", label="ordered core"))
        axis.fill_between(
            residues.numbers, 0, 1, where=core.tolist(), step="mid", color="0.9", zorder=0,
            transform=axis.get_xaxis_transform(), linewidth=0,
        )  # fmt: skip
    axis.set_xlabel(residues.label)
    axis.set_ylabel("RMSF of CA, Å")
    axis.set_xlim(residues.numbers[0], residues.numbers[-1])
    axis.set_xticks(_ticks(residues.numbers))
    axis.set_ylim(bottom=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(handles=handles, fontsize="small", frameon=False)


def _superposing(core: Tensor) -> Tensor:
    return superposing(core, torch.ones_like(core))


def _some(count: int) -> NDArray[np.int64]:
    """Positions of the models drawn, evenly spaced."""
    return np.linspace(0, count - 1, min(_DRAWN, count)).astype(np.int64)


def _from_n_to_c() -> Colormap:
    """Blue at the N terminus to orange at the C terminus; without the yellow that white hides."""
    return LinearSegmentedColormap.from_list(
        "n_to_c", colormaps["plasma"](np.linspace(0.0, 0.85, 256))
    )


def _lines(x: Array, residues: Residues, colours: Colormap, scale: Normalize) -> LineCollection:
    """Traces (M, L, 3) as seen along the last axis, what is nearer drawn over what is farther."""
    joined = residues.bonded[:-1].numpy()
    pairs = np.stack([x[:, :-1][:, joined], x[:, 1:][:, joined]], axis=2).reshape(-1, 2, 3)
    middle = (0.5 * (residues.numbers[:-1] + residues.numbers[1:]))[joined]
    order = np.argsort(pairs[..., 2].mean(1), kind="stable")
    lines = LineCollection(
        list(pairs[order, :, :2]), cmap=colours, norm=scale, linewidths=1.1, alpha=0.75,
        capstyle="round",
    )  # fmt: skip
    lines.set_array(np.tile(middle, len(x))[order])
    return lines


def _ticks(numbers: Array) -> list[float]:
    """First and last residue number, and round ones between that do not crowd them."""
    first, last = float(numbers[0]), float(numbers[-1])
    if last - first < 1:
        return [first]
    step = nice_length(last - first)
    between = np.arange(np.ceil(first / step) * step, last, step)
    room = 0.35 * step
    return [first, *(float(t) for t in between if first + room < t < last - room), last]
