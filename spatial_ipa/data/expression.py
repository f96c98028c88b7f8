"""Log-normalised expression of one slide, kept sparse.

For counts x, library sizes t_i and target sum S (Zheng et al., Nat. Commun. 8:14049, 2017, as
``normalize_total`` and ``log1p`` of scanpy),

    y_ig = log(1 + S x_ig / t_i),        z_ig = y_ig - mean_i y_ig,

with t the row sum over the genes given and the mean over the slide's own non-empty rows.  Values
that are logged already enter as y.  A row without counts has no expression: its z is 0, the slide's
mean.

y is sparse and z is not, so y and its mean are kept apart and rows are made dense a block at a
time: a sample of 10^6 cells never exists as a dense matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from common.errors import UserError
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
        """Normalise (n, G) counts, or only centre them where ``logged``.

        Raises:
            ValueError: if ``target_sum`` is not positive.
        """
        values, filled = log_normalised(counts, target_sum, logged)
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


def log_normalised(
    counts: sp.csr_matrix, target_sum: float, logged: bool
) -> tuple[sp.csr_matrix, np.ndarray]:
    """(n, G) float32 CSR of y and (n,) bool, the rows with counts; see the module.

    Raises:
        ValueError: if ``target_sum`` is not positive.
    """
    if not target_sum > 0:
        raise UserError(f"target_sum must be positive, got {target_sum}")
    sizes = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    filled = sizes > 0
    values = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    if not logged:
        factor = np.where(filled, target_sum / np.where(filled, sizes, 1.0), 0.0)
        rows = np.repeat(factor.astype(np.float32), np.diff(values.indptr))
        values.data = np.log1p(values.data * rows)
    return values, filled


def normalise(
    counts: sp.csr_matrix, *, target_sum: float = 1e4, logged: bool = False
) -> np.ndarray:
    """(n, G) float32 z of one slide, dense and finite.

    Its mean is summed in float64; that of :class:`LogExpression`, a sparse product, in float32.

    Args:
        counts: (n, G) non-negative, canonical.
        target_sum: S.
        logged: the values are log-normalised already and are only centred.

    Raises:
        ValueError: if ``target_sum`` is not positive.
    """
    sparse, filled = log_normalised(counts, target_sum, logged)
    values: np.ndarray = sparse.toarray()
    if filled.any():
        values -= values[filled].mean(axis=0, dtype=np.float64).astype(np.float32)
    values[~filled] = 0.0
    return values
