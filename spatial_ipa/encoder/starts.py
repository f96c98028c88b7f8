"""The linear map an MLP trunk starts as, and by which the kernels of eigenmaps compare cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spatial_ipa.data.expression import Expression
from spatial_ipa.encoder.settings import StartSettings
from spatial_ipa.encoder.spatial_pca import principal_components, spatial_components


def linear_start(
    slides: Sequence[Expression],
    coordinates: Sequence[np.ndarray],
    start: StartSettings,
    width: int,
    seed: int,
) -> Tensor:
    """(G, r) float32 spatial PCA, or PCA, of some slides.

    Args:
        slides: training slides.
        coordinates: (n_s, 2) of each.
        start: how; of all kinds but ``pca`` it is spatial PCA.
        width: most components, r <= width.
        seed: of the randomised decompositions.
    """
    if start.kind == "pca":
        return torch.from_numpy(principal_components(slides, width, seed))
    found, _ = spatial_components(
        slides,
        coordinates,
        principal_components(slides, start.rank, seed),
        num_components=width,
        num_neighbours=start.num_neighbours,
        ridge=start.ridge,
    )
    return torch.from_numpy(found)
