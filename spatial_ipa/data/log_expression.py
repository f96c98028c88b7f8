"""Log-normalised expression of a slide on a gene panel, kept sparse.

Same definition as :func:`spatial_ipa.data.expression.normalise`: y = log(1 + S x / t) with t the
row sum over the panel, centred by the mean over the slide's non-empty rows.  y is sparse and the
centred values are not, so y and its mean are kept apart and rows are made dense a block at a time:
a sample of 10^6 cells never exists as a dense matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from spatial_ipa.data.panels import reindex
from spatial_ipa.data.slide import Slide


@dataclass(frozen=True, eq=False)
class LogExpression:
    """Expression of n spots on G genes.

    Attributes:
        values: (n, G) float32 CSR, y before centring.
        mean: (G,) float32 over non-empty rows.
        filled: (n,) bool, rows with counts; the others are the slide's mean, z = 0.
    """

    values: sp.csr_matrix
    mean: np.ndarray
    filled: np.ndarray

    @staticmethod
    def of_slide(
        slide: Slide, panel: Sequence[str], target_sum: float, max_missing: float = 0.5
    ) -> LogExpression:
        """Reindex a slide to a panel and normalise it.

        Genes of the panel that the slide lacks enter as its mean, 0.

        Raises:
            ValueError: if the slide lacks more than ``max_missing`` of the panel.
        """
        counts, _ = reindex(slide, panel, max_missing)
        return LogExpression.of_counts(counts, target_sum, slide.is_logged)

    @staticmethod
    def of_counts(counts: sp.csr_matrix, target_sum: float, logged: bool) -> LogExpression:
        """Normalise (n, G) counts, or only centre them where ``logged``."""
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        filled = totals > 0
        values = counts.astype(np.float32, copy=True)
        if not logged:
            factor = np.where(filled, target_sum / np.where(filled, totals, 1.0), 0.0)
            rows = np.repeat(factor.astype(np.float32), np.diff(values.indptr))
            values.data = np.log1p(values.data * rows)
        total = np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()
        mean = (total / max(int(filled.sum()), 1)).astype(np.float32)
        return LogExpression(values, mean, filled)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """(m, G) float32 centred rows, dense."""
        dense: np.ndarray = self.values[index].toarray()
        dense -= self.mean
        dense[~self.filled[index]] = 0.0
        return dense

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Centred rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def project(self, components: np.ndarray) -> np.ndarray:
        """(n, r) float64 centred rows times ``components`` (G, r)."""
        weights = components.astype(np.float64)
        projected = np.asarray(self.values @ weights) - self.mean @ weights
        projected[~self.filled] = 0.0
        return projected
