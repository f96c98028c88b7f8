"""Normalised expression of one slide, kept sparse.

For counts x, library sizes t_i (the row sum over the genes given) and target sum S, let
u_ig = S x_ig / t_i.  One of three transforms is applied and the slide's mean is taken out:

    log             y = log(1 + u)                    normalize_total and log1p of scanpy
                                                      (Zheng et al., Nat. Commun. 8:14049, 2017)
    sqrt            y = sqrt(u)                       Bartlett, J. R. Stat. Soc. Suppl. 3:68 (1936)
    freeman_tukey   y = sqrt(u) + sqrt(u + 1) - 1     Freeman and Tukey, Ann. Math. Stat. 21:607
                                                      (1950); less 1, so that 0 stays 0
    z_ig = (y_ig - mean_i y_ig) / s

with the mean over the slide's own non-empty rows.  After log s = 1.  Else s^2 is the variance of y
over these rows, in the mean over genes: it is mostly that of the counting noise, which the root
makes equal for all genes but not for slides of unequal depth.

Of values that are logged already, log takes them as y; the others undo the logarithm first and
bring rows to the sum S, which gives what the counts would have given wherever the values are
log(1 + c_i x_ig) with any factor c_i of a cell.  A row without counts has no expression: its z is
0, the slide's mean.

y is sparse and z is not, so y and its mean are kept apart and rows are made dense a block at a
time: a sample of 10^6 cells never exists as a dense matrix.  Of a slide that is in its file until
it is asked for only mean, scale and non-empty rows are kept, and y is made anew of what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp

from common.errors import UserError
from spatial_ipa.data.matrices import DerivedRows, HeldRows, RowSource
from spatial_ipa.data.panels import gather_matrix, on_panel, panel_columns
from spatial_ipa.data.slide import Slide

Transform = Literal["sqrt", "freeman_tukey", "log"]


@dataclass(frozen=True)
class Normalisation:
    """From counts to values; see the module.

    Attributes:
        transform: of the scaled counts.
        target_sum: library size S.

    Raises:
        ValueError: on an unknown transform, or a target sum that is not positive.
    """

    transform: Transform
    target_sum: float = 1e4

    def __post_init__(self) -> None:
        if self.transform not in get_args(Transform):
            known = ", ".join(get_args(Transform))
            raise UserError(f"genes.transform must be one of {known}, got {self.transform!r}")
        if not self.target_sum > 0:
            raise UserError(f"target_sum must be positive, got {self.target_sum}")

    def apply(self, counts: sp.csr_matrix, logged: bool) -> tuple[sp.csr_matrix, np.ndarray]:
        """(n, G) float32 CSR of y, and (n,) bool, the rows with counts.

        Args:
            counts: (n, G) non-negative, canonical.
            logged: they are log-normalised already.
        """
        values = sp.csr_matrix(counts, dtype=np.float32, copy=True)
        if logged and self.transform != "log":
            values.data = np.expm1(values.data)
        sizes = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        filled = sizes > 0
        if logged and self.transform == "log":
            return values, filled
        factor = np.where(filled, self.target_sum / np.where(filled, sizes, 1.0), 0.0)
        u = values.data * np.repeat(factor.astype(np.float32), np.diff(values.indptr))
        if self.transform == "log":
            values.data = np.log1p(u)
        elif self.transform == "sqrt":
            values.data = np.sqrt(u)
        else:
            values.data = np.sqrt(u) + (np.sqrt(u + np.float32(1)) - np.float32(1))
        return values, filled


@dataclass(frozen=True, eq=False)
class Expression:
    """Expression of n spots on G genes.

    Attributes:
        source: (n, G) float32 CSR, y / s before centring.
        mean: (G,) float32 of these over non-empty rows.
        filled: (n,) bool, rows with counts; the others are the slide's mean, z = 0.
    """

    source: RowSource
    mean: np.ndarray
    filled: np.ndarray

    @staticmethod
    def of_slide(
        slide: Slide,
        panel: Sequence[str],
        normalisation: Normalisation,
        max_missing: float = 0.5,
    ) -> Expression:
        """Reindex a slide to a panel and normalise it.

        Genes of the panel that the slide lacks enter as its mean, 0.  That of a streamed slide is
        streamed, too (:meth:`loaded`).

        Raises:
            ValueError: if the slide lacks more than ``max_missing`` of the panel.
        """
        gather = gather_matrix(slide, panel_columns(slide, panel, max_missing))
        counts, logged = on_panel(slide.counts, gather), slide.is_logged
        if not slide.is_streamed:
            return Expression.of_counts(counts, normalisation, logged)
        _, mean, filled, scale = _normalised(counts, normalisation, logged)

        def of_rows(rows: sp.csr_matrix) -> sp.csr_matrix:
            values, _ = normalisation.apply(on_panel(rows, gather), logged)
            values.data *= scale
            return values

        return Expression(DerivedRows(slide.matrix, np.arange(len(slide)), of_rows), mean, filled)

    @staticmethod
    def of_counts(counts: sp.csr_matrix, normalisation: Normalisation, logged: bool) -> Expression:
        """Normalise and centre (n, G) counts, or values that are logged already."""
        values, mean, filled, _ = _normalised(counts, normalisation, logged)
        return Expression(HeldRows(values), mean, filled)

    @property
    def values(self) -> sp.csr_matrix:
        """(n, G) all of ``source``."""
        return self.source.read()

    def loaded(self) -> Expression:
        """The same in memory: read once for what looks at it several times."""
        if isinstance(self.source, HeldRows):
            return self
        return Expression(HeldRows(self.values), self.mean, self.filled)

    def weighted(self, weights: np.ndarray) -> Expression:
        """The same with every gene times its weight (G,)."""
        w = np.asarray(weights, dtype=np.float32)

        def weigh(values: sp.csr_matrix) -> sp.csr_matrix:
            found = values.copy()
            found.data *= w[found.indices]
            return found

        return Expression(self._derived(np.arange(len(self)), weigh), self.mean * w, self.filled)

    def subset(self, rows: np.ndarray) -> Expression:
        """Some rows, centred as in the whole slide."""
        source = self._derived(np.arange(len(self))[rows], lambda values: values)
        return Expression(source, self.mean, self.filled[rows])

    def _derived(
        self, rows: np.ndarray, change: Callable[[sp.csr_matrix], sp.csr_matrix]
    ) -> RowSource:
        """Some rows changed, where these are: in memory, or when they are asked for."""
        derived = DerivedRows(self.source, rows, change)
        return HeldRows(derived.read()) if isinstance(self.source, HeldRows) else derived

    def __len__(self) -> int:
        return self.source.num_rows

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """(m, G) float32 centred rows, dense."""
        dense: np.ndarray = self.source.read(np.arange(len(self))[index]).toarray()
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


def _normalised(
    counts: sp.csr_matrix, normalisation: Normalisation, logged: bool
) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, np.float32]:
    """y / s, its mean (G,), the non-empty rows (n,), and 1 / s."""
    values, filled = normalisation.apply(counts, logged)
    num_filled = max(int(filled.sum()), 1)
    mean = np.asarray(values.sum(axis=0, dtype=np.float64)).ravel() / num_filled
    scale = 1.0
    if normalisation.transform != "log" and values.shape[1]:
        square = np.square(values.data, dtype=np.float64).sum() / num_filled
        variance = (square - np.square(mean).sum()) / values.shape[1]
        scale = variance**-0.5 if variance > 1e-12 * square else 1.0
        values.data *= np.float32(scale)
        mean *= scale
    return values, mean.astype(np.float32), filled, np.float32(scale)


def normalise(
    counts: sp.csr_matrix, *, target_sum: float = 1e4, logged: bool = False
) -> np.ndarray:
    """(n, G) float32 z of one slide after log, dense and finite.

    Its mean is summed in float64; that of :class:`Expression`, a sparse product, in float32.

    Args:
        counts: (n, G) non-negative, canonical.
        target_sum: S.
        logged: the values are log-normalised already and are only centred.

    Raises:
        ValueError: if ``target_sum`` is not positive.
    """
    sparse, filled = Normalisation("log", target_sum).apply(counts, logged)
    values: np.ndarray = sparse.toarray()
    if filled.any():
        values -= values[filled].mean(axis=0, dtype=np.float64).astype(np.float32)
    values[~filled] = 0.0
    return values
