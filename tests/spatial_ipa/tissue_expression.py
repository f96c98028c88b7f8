"""Expression of small tissues in which genes follow position."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.slide import Slide

GENES = 40


def make_counts(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 40) counts and (n, 2) coordinates; half of the genes follow position, row 3 is empty."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    centres = np.random.default_rng(99).random((GENES, 2))  # the same tissue for all seeds
    rate = 6 * np.exp(-8 * np.square(xy[:, None] - centres[None]).sum(axis=2)) + 0.5
    rate[:, GENES // 2 :] = 2.0
    counts = rng.poisson(rate * rng.uniform(0.5, 2, (n, 1)))
    counts[3] = 0
    return counts, xy


def make_tissue(seed: int, n: int = 90) -> tuple[Expression, np.ndarray]:
    """Expression after sqrt, and coordinates."""
    counts, xy = make_counts(seed, n)
    matrix = sp.csr_matrix(counts.astype(np.float32))
    return Expression.of_counts(matrix, Normalisation("sqrt"), False), xy


def make_tissue_slide(seed: int, n: int = 90) -> Slide:
    """The same as a slide."""
    counts, xy = make_counts(seed, n)
    return Slide.build(f"tissue_{seed}", counts, [f"g{i}" for i in range(GENES)], xy)
