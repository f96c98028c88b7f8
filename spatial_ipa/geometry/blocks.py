"""Contiguous parts of a slide, which are left out together in cross-fitting.

A cell left out alone still has its neighbours on the tissue in the fit, with the same staining,
depth and dissection: what it is given looks better than anything a new slide gets.  Left out with
the cells around it, it looks much like a cell of a new slide.  How much, and for how many parts, is
in ``docs/how_spatial.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

NUM_BLOCKS = 30
_FEWEST = 8  # cells of a part, on average


def spatial_blocks(
    xy: np.ndarray, num_blocks: int = NUM_BLOCKS, seed: int = 0
) -> NDArray[np.int64]:
    """(n,) part of every cell, by k-means on the coordinates.

    Args:
        xy: (n, 2) coordinates in any unit and pose.
        num_blocks: parts; of fewer than eight cells each, fewer parts are made, but of two cells or
            more at least two: a slide left out whole leaves nothing to fit to.
        seed: of the first centres.
    """
    count = max(min(2, len(xy)), min(num_blocks, len(xy) // _FEWEST))
    points = np.asarray(xy, dtype=np.float64)
    found = KMeans(count, n_init=1, random_state=seed).fit_predict(points - points.mean(axis=0))
    return found.astype(np.int64)
