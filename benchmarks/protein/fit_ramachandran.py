"""Fit the Ramachandran energies of ``protein_cvae.geometry.ramachandran`` to the Top8000 grids.

    python benchmarks/protein/fit_ramachandran.py GRID_FOLDER [--order 18] [--output FILE]

GRID_FOLDER holds the six ``rama8000-*.data`` contour grids of rlabduke/reference_data
(MolProbity, CC BY 4.0; Williams et al. 2018).  A grid value is the share of reference residues at
a lower density than this cell.  Sorted ascending, the values v are therefore the cumulated mass of
the cells, and the density is dv/dn, non-decreasing: an isotonic regression of the steps.  Its −log
per rad² is fitted by a real Fourier series of the given order in φ and ψ, by least squares weighted
towards the favoured and the outlier contour; beyond the latter the energy rises with the distance
from it.  The two limits are the fitted energies that separate the cells of the grid best.  Prints,
per class, the misclassified cells and the density-weighted error of the energy in nats.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.isotonic import IsotonicRegression

from common.files.atomic import atomic_path

Array = NDArray[np.float64]

# file, share of the reference residues outside the outlier contour
CLASSES = {
    "general": ("rama8000-general-noGPIVpreP.data", 0.0005),
    "glycine": ("rama8000-gly-sym.data", 0.0010),
    "cis-proline": ("rama8000-cispro.data", 0.0020),
    "trans-proline": ("rama8000-transpro.data", 0.0010),
    "pre-proline": ("rama8000-prepro-noGP.data", 0.0010),
    "ile-val": ("rama8000-ileval-nopreP.data", 0.0010),
}
FAVOURED = 0.02
BINS = 180
UNIT_NATS = 0.001
TAIL_NATS, TAIL_DEGREES = 12.0, 100.0  # of the rise beyond the outlier contour


def read_grid(path: Path) -> Array:
    """(180, 180) contour values, row φ and column ψ, cell centres −179, −177, …, 179 degrees."""
    table = np.loadtxt(path)
    index = np.rint((table[:, :2] + 179) / 2).astype(int)
    grid = np.zeros((BINS, BINS))
    grid[index[:, 0], index[:, 1]] = table[:, 2]
    return grid


def energies(grid: Array, outlier: float) -> tuple[Array, float, float]:
    """(180, 180) −log density per rad² and its values at the favoured and outlier contours."""
    levels, cells = np.unique(grid[grid > 0], return_counts=True)
    steps = np.diff(levels, prepend=0.0) / cells
    order = np.arange(len(levels))
    density = IsotonicRegression().fit(order, steps, sample_weight=cells).predict(order)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(density) > 0) + 1))
    ends = np.append(starts[1:], len(levels))
    log_level = np.log(levels)
    middle = np.array([log_level[a:b].mean() for a, b in zip(starts, ends, strict=True)])
    log_density = np.log(density[starts]) - 2 * np.log(2 * np.pi / BINS)

    def energy(value: Array | float) -> Array:
        return np.asarray(-np.interp(np.log(value), middle, log_density))

    allowed = grid >= outlier
    around = np.tile(allowed, (3, 3))  # periodic
    distance = 2 * distance_transform_edt(~around)[BINS : 2 * BINS, BINS : 2 * BINS]  # degrees
    limit = float(energy(outlier))
    # Out there a few scattered residues would make minima of their own: rise with distance instead.
    result = limit + TAIL_NATS * (1 - np.exp(-distance / TAIL_DEGREES))
    result[allowed] = energy(grid[allowed])
    return result, float(energy(FAVOURED)), limit


def basis(angles: Array, order: int) -> Array:
    """(n,) radians -> (n, 2 order + 1): 1, cos kx, sin kx."""
    multiples = np.outer(angles, np.arange(1, order + 1))
    return np.hstack((np.ones((len(angles), 1)), np.cos(multiples), np.sin(multiples)))


def fit(target: Array, favoured: float, outlier: float, order: int) -> NDArray[np.int64]:
    """(2K+1, 2K+1) coefficients in units of ``UNIT_NATS``."""
    rows = basis(np.deg2rad(np.arange(-179, 180, 2)), order)
    design = np.einsum("ia,jb->ijab", rows, rows).reshape(BINS * BINS, -1)
    value = target.ravel()
    weight = 0.05 + 0.05 * (value < outlier) + 0.2 * np.exp(-value)
    weight += 1 / (1 + ((value - outlier) / 0.7) ** 2) + 0.5 / (1 + ((value - favoured) / 0.7) ** 2)
    ridge = 1e-4 * np.eye(design.shape[1])
    for _ in range(3):  # cells on the wrong side of the outlier contour count double next time
        gram = design.T @ (design * weight[:, None]) + ridge
        solution = np.linalg.solve(gram, design.T @ (weight * value))
        wrong = (design @ solution > outlier) != (value > outlier)
        weight = np.where(wrong, 2 * weight, weight)
    return np.rint(solution / UNIT_NATS).astype(np.int64).reshape(rows.shape[1], -1)


def separating_energy(fitted: Array, inside: NDArray[np.bool_]) -> float:
    """The limit with the fewest cells on the wrong side: ``inside`` at most it, others above it."""
    order = np.argsort(fitted, axis=None)
    kept = inside.ravel()[order]
    wrong = np.cumsum(~kept) + kept.sum() - np.cumsum(kept)  # limit between this cell and the next
    best = int(np.argmin(wrong[:-1]))
    return float(fitted.ravel()[order[best : best + 2]].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grids", type=Path)
    parser.add_argument("--order", type=int, default=18)
    parser.add_argument(
        "--output", type=Path, default=Path("protein_cvae/geometry/ramachandran_parameters.json")
    )
    options = parser.parse_args()
    classes = {}
    for name, (file, share) in CLASSES.items():
        grid = read_grid(options.grids / file)
        target, favoured, outlier = energies(grid, share)
        coefficients = fit(target, favoured, outlier, options.order)
        rows = basis(np.deg2rad(np.arange(-179, 180, 2)), options.order)
        fitted = UNIT_NATS * rows @ coefficients @ rows.T
        favoured = separating_energy(fitted, grid >= FAVOURED)
        outlier = separating_energy(fitted, grid >= share)
        density = np.exp(-target) * (grid >= share)
        print(
            f"{name:14s} outlier cells wrong {np.sum((fitted > outlier) != (grid < share)):4d}, "
            f"favoured cells wrong {np.sum((fitted <= favoured) != (grid >= FAVOURED)):4d} "
            f"of {BINS * BINS}; energy rms "
            f"{np.sqrt(np.average((fitted - target) ** 2, weights=density)):.3f} nats"
        )
        classes[name] = {
            "favoured_energy": round(favoured, 4),
            "outlier_energy": round(outlier, 4),
            "coefficients": coefficients.ravel().tolist(),
        }
    stored = {
        "description": "Fourier coefficients of -log density per rad^2 of (phi, psi), row-major "
        "(phi, psi), basis 1, cos kx, sin kx; fitted by benchmarks/protein/fit_ramachandran.py",
        "source": "contour grids rama8000-*.data, github.com/rlabduke/reference_data (MolProbity), "
        "CC BY 4.0; Williams et al. 2018, Protein Sci. 27, 293-315; Lovell et al. 2003, "
        "Proteins 50, 437-450",
        "unit_nats": UNIT_NATS,
        "classes": classes,
    }
    with atomic_path(options.output) as path:
        path.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"wrote {options.output}, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
