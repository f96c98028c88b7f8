"""Several layouts of the same cells ("draws"), superposed; what every way of placing returns.

The mean is the prediction and the spread around it the uncertainty.  Each draw sees the embeddings
with the Gaussian noise of training: the model was never fitted to clean embeddings, and the mean
over noise is a smoother map than the map itself (randomised smoothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.align import align
from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix

PlaceGraph = Callable[[Tensor, Tensor, EdgeList, Tensor, int, Tensor], Tensor]
"""(h, cells, edges, graph, num_graphs, start_noise) -> coordinates (N, 2); ``cells`` (N,) are the
rows of the nodes among all that are placed."""

PlacementMode = Literal["whole", "stitched"]

SHOW_AFTER = 2.0
"""Seconds before a progress bar appears."""


@dataclass(frozen=True)
class Placement:
    """Attributes:

    xy: (n, 2) gauge-fixed mean layout.
    draws: (T, n, 2) the superposed layouts it is the mean of.
    """

    xy: Tensor
    draws: Tensor

    @property
    def spread(self) -> Tensor:
        """(n,) RMS distance of a cell's draws from their mean, in RMS radii of the layout."""
        return (self.draws - self.draws.mean(0)).square().sum(2).mean(0).sqrt()


def consensus(draws: Tensor, rounds: int = 3) -> Placement:
    """Superpose layouts (T, n, 2) on their mean by rotation and reflection, and average.

    Generalised Procrustes analysis (Gower 1975) without scaling: draws are gauge-fixed already.
    """
    reference = draws[0]
    for _ in range(rounds):
        aligned = align(draws, reference.expand_as(draws), reflection=True).apply(draws)
        reference = gauge_fix(aligned.mean(0))
    return Placement(reference, aligned)


def noisy(h: Tensor, noise_h: float, generator: torch.Generator) -> Tensor:
    """h (n, d) with Gaussian noise of standard deviation ``noise_h``."""
    return h + noise_h * torch.randn(h.shape, generator=generator).to(h)
