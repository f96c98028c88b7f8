"""A simulated tissue: slides of it, and dissociated cells whose positions are known.

Anatomy.  One map for all slides: position u in the plane carries P programme activities f_p(u):
linear gradients in several directions, a zonation 1/(1 + exp(-d)) and bands over the distance d to
off-centre vessels, and Gaussian niches.  No rotation or reflection maps the programmes onto
themselves, so expression fixes position up to the gauge; a symmetric tissue would not be
identifiable, whatever the method.  With ``mirror_symmetric`` the programmes are those of
(|u_1|, u_2): such a tissue, for testing that this is noticed.

Expression.  Gene g has abundance a_g and sparse loadings B_pg; cell states c without spatial
structure (cell cycle, stress) share the genes:

    log m_ig = a_g + b_sg + sum_p f_p(u_i) B_pg + sum_q c_iq C_qg,
    mu_ig    = depth_i m_ig / sum_g m_ig,
    x_ig     ~ NB(mean mu_ig, variance mu_ig + phi mu_ig^2)      (gamma-Poisson),

with a batch effect b_sg per slide and gene, and a log-normal depth around the slide's own.

Slides.  Slide s is a jittered hexagonal grid inside an irregular outline (a random Fourier radius
that is the tissue's, slightly changed), carried to the anatomy by its own small smooth deformation
and stored after its own rotation, reflection, scale and shift.

Cells.  Uniform over the tissue, with stronger cell states, a platform effect per gene, a wider
spread of depth, and dropout: a count survives with probability 1 - exp(-mu_ig / half) — lowly
expressed genes are lost most often.  Their positions are kept apart from them.

Writing to files is in :mod:`spatial_ipa.data.simulation.files`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import anndata as ad
import numpy as np
import scipy.sparse as sp

from common.errors import UserError
from common.rng import numpy_generator_for

_SPACING = 100.0  # coordinate units between neighbouring spots, before the slide's own scale
_MAP, _SLIDE, _CELLS = 0, 1, 2  # first random key: what is drawn
_CELLS_AT_ONCE = 65_536


@dataclass(frozen=True)
class TissueSpec:
    """Sizes and strengths.

    With the defaults, kNN on 10 principal components of one slide recalls about half of the true
    neighbours at k = 0.15 n.  The same measure gives 0.2 to 0.4 on 1k-array slides of breast tumour
    and synovium, so a method that works here has not yet shown that it works there.

    Attributes:
        num_slides: slides; slide s is the same whatever their number.
        spots_per_slide: spots on each.
        num_genes: genes.
        num_cells: dissociated cells.
        num_cell_states: programmes without spatial structure.
        spot_depth: median counts per spot.
        cell_depth: median counts per cell before dropout.
        depth_spread: standard deviation of log depth between spots (cells: 1.8 times this).
        slide_depth_spread: standard deviation of log depth between slides.
        batch_spread: standard deviation of b_sg.
        programme_strength: standard deviation of the non-zero loadings B.
        state_strength: the same for C, on spots (cells: twice this).
        dispersion: phi.
        deformation: root mean square displacement of a slide's map, tissue radius 1.
        dropout_half: ``half``, the mean count scale of dropout.
        mirror_symmetric: both halves of the tissue express the same.
        seed: everything is a function of it.
    """

    num_slides: int = 4
    spots_per_slide: int = 300
    num_genes: int = 400
    num_cells: int = 400
    num_cell_states: int = 3
    spot_depth: float = 1500.0
    cell_depth: float = 4000.0
    depth_spread: float = 0.35
    slide_depth_spread: float = 0.2
    batch_spread: float = 0.2
    programme_strength: float = 0.5
    state_strength: float = 0.2
    dispersion: float = 0.3
    deformation: float = 0.03
    dropout_half: float = 2.0
    mirror_symmetric: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(TissueSpec):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_ZERO else 1 if isinstance(value, int) else 1e-12
            if not (np.isfinite(value) and value >= least):
                raise UserError(f"TissueSpec.{field.name} must be at least {least}, got {value}")


_MAY_BE_ZERO = {
    "num_cells", "num_cell_states", "depth_spread", "slide_depth_spread", "batch_spread",
    "programme_strength", "state_strength", "dispersion", "deformation", "mirror_symmetric", "seed",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tissue:
    """What was simulated.

    Attributes:
        slides: AnnData, X (spots, genes) int32 CSR counts, ``obsm['spatial']`` float32.
        scrna: AnnData of the cells, without coordinates.
        scrna_true_xy: (cells, 2) float32 anatomical positions, tissue radius about 1.
        anatomy: per slide, (spots, 2) float32 positions in the same anatomical frame.
    """

    slides: list[ad.AnnData]
    scrna: ad.AnnData
    scrna_true_xy: np.ndarray
    anatomy: list[np.ndarray]


def simulate_tissue(spec: TissueSpec) -> Tissue:
    """Simulate slides and cells; equal specs give equal bytes."""
    anatomy_map = _AnatomyMap(spec)
    slides, anatomy = [], []
    for index in range(spec.num_slides):
        rng = numpy_generator_for(spec.seed, _SLIDE, index)
        grid = _hexagonal_grid(spec.spots_per_slide, anatomy_map.outline.perturbed(rng), rng)
        position = grid + spec.deformation * _smooth_field(grid, rng)
        depth = spec.spot_depth * np.exp(spec.slide_depth_spread * rng.standard_normal())
        counts = anatomy_map.counts(position, depth, rng, strength=1.0)
        slide = _anndata(counts, f"slide_{index}", f"donor_{index}")
        slide.obsm["spatial"] = _own_frame(grid, spec.spots_per_slide, rng)
        slide.uns["spatial_units"] = f"1 = 1/{_SPACING:.0f} of the spot distance, scaled by slide"
        slides.append(slide)
        anatomy.append(position.astype(np.float32))
    rng = numpy_generator_for(spec.seed, _CELLS)
    true_xy = _uniform_points(spec.num_cells, anatomy_map.outline, rng)
    counts = anatomy_map.counts(true_xy, spec.cell_depth, rng, strength=2.0, is_cell=True)
    scrna = _anndata(counts, "scrna", "donor_cells")
    return Tissue(slides, scrna, true_xy.astype(np.float32), anatomy)


class _Outline:
    """Boundary radius r(angle) = 1 + sum_k a_k cos(k angle + phase_k)."""

    def __init__(self, amplitude: np.ndarray, phase: np.ndarray) -> None:
        self.amplitude, self.phase = amplitude, phase

    def relative_radius(self, points: np.ndarray) -> np.ndarray:
        """(n,) distance from the centre over the boundary's; below 1 is inside."""
        angle = np.arctan2(points[:, 1], points[:, 0])[:, None]
        waves = np.cos(np.arange(1, self.phase.size + 1) * angle + self.phase)
        return np.hypot(points[:, 0], points[:, 1]) / (1.0 + waves @ self.amplitude)

    def perturbed(self, rng: np.random.Generator) -> _Outline:
        change = 0.02 * rng.standard_normal(self.amplitude.size)
        return _Outline(self.amplitude + change, self.phase)


class _AnatomyMap:
    """The part that all slides and cells share: outline, programmes, genes."""

    def __init__(self, spec: TissueSpec) -> None:
        rng = numpy_generator_for(spec.seed, _MAP)
        self.spec = spec
        # Amplitudes sum to 0.48, so the radius stays positive; k = 1..3 break every symmetry.
        amplitude = np.array([0.14, 0.13, 0.11, 0.06, 0.04])
        self.outline = _Outline(amplitude, rng.uniform(0, 2 * np.pi, amplitude.size))
        self.directions = rng.uniform(0, 2 * np.pi, 4)
        self.vessels = _uniform_points(2, self.outline, rng)
        self.niches = _uniform_points(4, self.outline, rng)
        self.niche_width = rng.uniform(0.25, 0.45, len(self.niches))
        num_programmes = self.programmes(np.zeros((1, 2))).shape[1]
        genes = spec.num_genes
        self.abundance = 1.2 * rng.standard_normal(genes)
        loaded = rng.random((num_programmes, genes)) < 2.0 / num_programmes
        loading = spec.programme_strength * rng.standard_normal((num_programmes, genes))
        self.loading = loading * loaded
        states = (spec.num_cell_states, genes)
        self.state_loading = spec.state_strength * rng.standard_normal(states)

    def programmes(self, u: np.ndarray) -> np.ndarray:
        """(n, P) activities, each of order 1."""
        if self.spec.mirror_symmetric:
            u = np.column_stack([np.abs(u[:, 0]), u[:, 1]])
        angles = np.stack([np.cos(self.directions), np.sin(self.directions)])  # (2, 4)
        gradients = 1.5 * u @ angles
        to_vessel = np.linalg.norm(u[:, None] - self.vessels, axis=2)  # (n, 2)
        zones = 3.0 / (1.0 + np.exp(-(to_vessel - 0.6) / 0.15)) - 1.5
        bands = 2.0 * np.exp(-(((to_vessel[:, :1] - np.array([0.3, 0.7, 1.1])) / 0.15) ** 2))
        to_niche = np.linalg.norm(u[:, None] - self.niches, axis=2)
        niches = 2.5 * np.exp(-0.5 * (to_niche / self.niche_width) ** 2)
        return np.hstack([gradients, zones, bands, niches])

    def counts(
        self,
        u: np.ndarray,
        depth: float,
        rng: np.random.Generator,
        *,
        strength: float,
        is_cell: bool = False,
    ) -> sp.csr_matrix:
        """(n, genes) int32 counts at the anatomical positions ``u`` (n, 2)."""
        spread = self.spec.batch_spread * (2.0 if is_cell else 1.0)
        batch = spread * rng.standard_normal(self.spec.num_genes)
        # Means of all cells at once would be n x genes in double precision, several times.
        blocks = [
            self._counts_of_block(part, batch, depth, rng, strength=strength, is_cell=is_cell)
            for part in np.array_split(u, max(1, -(-len(u) // _CELLS_AT_ONCE)))
        ]
        return sp.vstack(blocks, format="csr")

    def _counts_of_block(
        self,
        u: np.ndarray,
        batch: np.ndarray,
        depth: float,
        rng: np.random.Generator,
        *,
        strength: float,
        is_cell: bool,
    ) -> sp.csr_matrix:
        spec, num = self.spec, len(u)
        states = strength * rng.standard_normal((num, spec.num_cell_states))
        log_mean = self.abundance + batch + self.programmes(u) @ self.loading
        mean = np.exp(log_mean + states @ self.state_loading)
        spread = spec.depth_spread * (1.8 if is_cell else 1.0)
        depths = depth * np.exp(spread * rng.standard_normal((num, 1)))
        mean *= depths / mean.sum(axis=1, keepdims=True)
        rate = mean
        if spec.dispersion > 0:
            rate = rng.gamma(1.0 / spec.dispersion, spec.dispersion * mean)
        counts = rng.poisson(rate)
        if is_cell:
            counts = counts * (rng.random(mean.shape) < 1.0 - np.exp(-mean / spec.dropout_half))
        return sp.csr_matrix(counts.astype(np.int32))


def _hexagonal_grid(num: int, outline: _Outline, rng: np.random.Generator) -> np.ndarray:
    """(num, 2) jittered grid points: those that lie deepest inside the outline."""
    spacing = _spacing(num)
    # Rows and columns out to radius 1.7, beyond any boundary.
    half = int(np.ceil(1.7 / spacing)) + 1
    row, column = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1)
    grid = np.stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2], axis=1) * spacing
    grid += spacing * (rng.uniform(-0.5, 0.5, 2) + 0.08 * rng.standard_normal(grid.shape))
    inside = np.argsort(outline.relative_radius(grid), kind="stable")[:num]
    return grid[np.sort(inside)]


def _spacing(num: int) -> float:
    """Distance between hexagonal neighbours when ``num`` points fill a disc of radius 1."""
    return float(np.sqrt(np.pi / num * 2 / np.sqrt(3)))


def _uniform_points(num: int, outline: _Outline, rng: np.random.Generator) -> np.ndarray:
    """(num, 2) uniform inside the outline, by rejection from its bounding square."""
    points = np.empty((0, 2))
    while len(points) < num:
        draw = rng.uniform(-1.5, 1.5, (2 * num + 16, 2))
        points = np.concatenate([points, draw[outline.relative_radius(draw) < 0.97]])
    return points[:num]


def _smooth_field(points: np.ndarray, rng: np.random.Generator, waves: int = 4) -> np.ndarray:
    """(n, 2) displacement of root mean square about 1, wavelength above the tissue's radius."""
    frequency = rng.uniform(-3.0, 3.0, (waves, 2))
    phase = rng.uniform(0, 2 * np.pi, (waves, 1, 2))
    amplitude = rng.standard_normal((waves, 1, 2)) / np.sqrt(waves)
    return (amplitude * np.sin((points @ frequency.T).T[:, :, None] + phase)).sum(axis=0)


def _own_frame(grid: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) float32 after a random rotation, reflection, scale and shift."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= rng.choice([-1.0, 1.0])
    scale = _SPACING / _spacing(num) * rng.uniform(0.7, 1.4)
    shift = rng.uniform(1000.0, 5000.0, 2)
    return (scale * grid @ turn.T + shift).astype(np.float32)


def _anndata(counts: sp.csr_matrix, name: str, patient: str) -> ad.AnnData:
    num, genes = counts.shape
    obs = {
        "obs_names": [f"{name}_{row}" for row in range(num)],
        "slide_id": [name] * num,
        "patient": [patient] * num,
    }
    var = {"var_names": [f"gene_{gene}" for gene in range(genes)]}
    return ad.AnnData(counts, obs=obs, var=var, uns={"dataset": "simulated tissue"})
