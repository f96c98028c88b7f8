"""Figures of an evaluation, real beside generated: torsions, distances, latents.

Made with ``matplotlib.figure.Figure`` directly: no display and no global state.  CA coordinates
(M, L, 3) in Å; ensembles come as a mapping from title to conformers, the real one first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.geometry.ramachandran import (
    CLASS_NAMES,
    ramachandran_class,
    ramachandran_favoured,
    ramachandran_outlier,
)

Array = NDArray[np.float64]
_POINTS = 3000  # torsion pairs per panel
_GRID = 121


def ramachandran_figure(
    name: str, ensembles: Mapping[str, Tensor], bonded: Tensor, aatype: Tensor
) -> Figure:
    """φ and ψ by residue class: favoured and outlier contours of our fit, outliers in red.

    Args:
        name: of the protein.
        ensembles: (M, L, 3, 3) N, CA, C by title.
        bonded: (L,) bool.
        aatype: (L,) int64.
    """
    figure = Figure(figsize=(2.3 * len(CLASS_NAMES), 2.5 * len(ensembles)), layout="constrained")
    axes = figure.subplots(
        len(ensembles), len(CLASS_NAMES), squeeze=False, sharex=True, sharey=True
    )
    regions = [_regions(kind) for kind in range(len(CLASS_NAMES))]
    for row, (title, conformers) in enumerate(ensembles.items()):
        phi, psi, kind = _torsions(conformers, bonded, aatype)
        for column, label in enumerate(CLASS_NAMES):
            axis = axes[row, column]
            degrees, *inside = regions[column]
            for region, colour in zip(inside, ("0.35", "0.7"), strict=True):
                axis.contour(degrees, degrees, region, levels=[0.5], colors=colour, linewidths=0.7)
            x, y = phi[kind == column], psi[kind == column]
            step = -(-max(1, len(x)) // _POINTS)
            x, y = x[::step], y[::step]
            outlier = ramachandran_outlier(x, y, torch.full_like(x, column, dtype=torch.int64))
            for where, colour in ((~outlier, "C0"), (outlier, "C3")):
                axis.scatter(
                    *(torch.rad2deg(v[where]).numpy() for v in (x, y)),
                    s=2, c=colour, linewidths=0, rasterized=True,
                )  # fmt: skip
            if row == 0:
                axis.set_title(label)
        axes[row, 0].set_ylabel(f"{title}\nψ, °")
    for axis in axes[-1]:
        axis.set_xlabel("φ, °")
        axis.set_xlim(-180, 180)
        axis.set_ylim(-180, 180)
        axis.set_xticks([-90, 0, 90])
        axis.set_yticks([-90, 0, 90])
    figure.suptitle(f"{name}: Ramachandran plots; lines: 98 % and outlier contours")
    return figure


def latent_figure(maps: Mapping[str, Tensor], d_global: int) -> Figure:
    """First two principal components of z_global and of all latents, coloured by protein.

    Args:
        maps: (M, G + ...) points of the models of each protein, z_global first.
        d_global: G.
    """
    rows = torch.cat(list(maps.values())).double()
    owner = np.repeat(np.arange(len(maps)), [len(points) for points in maps.values()])
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, points, title in zip(
        axes, (rows[:, :d_global], rows), ("z_global", "z_global and mean z_local"), strict=True
    ):
        plane, share = principal_plane(points)
        axis.scatter(*plane.T, c=owner, cmap="nipy_spectral", s=8)
        axis.set_title(title)
        axis.set_xlabel(f"component 1 ({share[0]:.0%})")
        axis.set_ylabel(f"component 2 ({share[1]:.0%})")
    if len(maps) <= 12:
        colours = axes[1].collections[0]
        handles, _ = colours.legend_elements(num=None)
        axes[1].legend(handles, list(maps), fontsize="x-small")
    figure.suptitle("Posterior means, a point per model, a colour per protein")
    return figure


def principal_plane(points: Tensor) -> tuple[Array, Array]:
    """(n, 2) coordinates in the first two principal components, and their shares of variance."""
    centred = points - points.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    power = values.square()
    share = power / power.sum().clamp_min(torch.finfo(power.dtype).tiny)
    plane = torch.nn.functional.pad(centred @ axes[:2].mT, (0, 2 - len(axes[:2])))
    return plane.numpy(), torch.nn.functional.pad(share[:2], (0, 2 - len(share[:2]))).numpy()


def distance_figure(name: str, ensembles: Mapping[str, Tensor]) -> Figure:
    """Mean CA distance matrix of each generated ensemble minus that of the first, the real one."""
    titles = list(ensembles)
    differences = [distance_difference(ensembles[t], ensembles[titles[0]]) for t in titles[1:]]
    limit = max([1e-3, *(float(np.abs(d).max()) for d in differences)])
    figure = Figure(figsize=(4.2 * len(differences), 3.9), layout="constrained")
    axes = figure.subplots(1, len(differences), squeeze=False)[0]
    for axis, title, difference in zip(axes, titles[1:], differences, strict=True):
        end = len(difference) + 0.5
        drawn = axis.imshow(
            difference, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(0.5, end, end, 0.5)
        )
        axis.set_title(f"{title} − {titles[0]}")
        axis.set_xlabel("residue")
    figure.colorbar(drawn, ax=list(axes), label="mean CA distance, Å")
    figure.suptitle(f"{name}: change of the mean CA distances")
    return figure


def distance_difference(first: Tensor, second: Tensor) -> Array:
    """(L, L) Å: mean CA distances of (K, L, 3) minus those of (M, L, 3)."""
    means = [torch.stack([torch.cdist(x, x) for x in e.double()]).mean(0) for e in (first, second)]
    difference: Array = (means[0] - means[1]).numpy()
    return difference


def _torsions(conformers: Tensor, bonded: Tensor, aatype: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """φ, ψ (radians) and class of all residues that have both, (n,) each."""
    shape = conformers.shape[:2]
    present = torch.ones(shape, dtype=torch.bool)
    angles, defined = backbone_dihedrals(conformers.double(), bonded.expand(shape), present)
    kind = ramachandran_class(aatype.expand(shape), angles.omega, defined.omega)
    both = defined.phi & defined.psi
    return angles.phi[both], angles.psi[both], kind[both]


def _regions(residue_class: int) -> tuple[Array, Array, Array]:
    """Grid in degrees (G,); favoured and not outlier (G, G), 1 inside, ψ by row and φ by column."""
    grid = torch.linspace(-torch.pi, torch.pi, _GRID, dtype=torch.float64)
    psi, phi = torch.meshgrid(grid, grid, indexing="ij")
    kind = torch.full(phi.shape, residue_class)
    favoured = ramachandran_favoured(phi, psi, kind).double().numpy()
    allowed = 1 - ramachandran_outlier(phi, psi, kind).double().numpy()
    return torch.rad2deg(grid).numpy(), favoured, allowed
