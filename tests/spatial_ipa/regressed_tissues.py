"""Simulated tissues with regression in the place of the model."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

from spatial_ipa.confidence.calibration import calibrate_slides
from spatial_ipa.confidence.conformal import Calibration
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.simulation.files import TissueSpec, simulate_tissue
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.layout.placement import Placement, consensus


class Regression:
    """Places cells by 10-neighbour regression on the anatomical frame, draws on random halves."""

    def __init__(self, slides: list[EmbeddedSlide]) -> None:
        self.h = np.concatenate([slide.h for slide in slides])
        self.xy = np.concatenate([slide.xy for slide in slides])

    def __call__(self, h: np.ndarray) -> Placement:
        rng, draws = np.random.default_rng(0), []
        for _ in range(8):
            half = rng.permutation(len(self.h))[: len(self.h) // 2]
            draws.append(KNeighborsRegressor(10).fit(self.h[half], self.xy[half]).predict(h))
        return consensus(torch.from_numpy(np.stack(draws)).float())


Tissue = tuple[list[EmbeddedSlide], ReferenceCells, Calibration, Regression]


def simulated(mirror: bool) -> list[EmbeddedSlide]:
    """Seven slides, components of expression fitted on the first three, in the anatomical frame."""
    spec = TissueSpec(num_slides=7, num_genes=200, num_cells=0, mirror_symmetric=mirror)
    tissue = simulate_tissue(spec)
    log = [normalise(slide.X, logged=False) for slide in tissue.slides]
    pca = PCA(10, random_state=0).fit(np.concatenate(log[:3]))
    return [
        EmbeddedSlide(f"s{i}", pca.transform(x).astype(np.float32), xy)
        for i, (x, xy) in enumerate(zip(log, tissue.anatomy, strict=True))
    ]


def calibrated(slides: list[EmbeddedSlide]) -> tuple[ReferenceCells, Calibration, Regression]:
    place = Regression(slides[:3])
    return (*calibrate_slides(slides[:3], slides[3:5], place, 8), place)
