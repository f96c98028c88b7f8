"""Sparse matrices by rows: in memory, in a file, or made of another as they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp


class RowSource(Protocol):
    """An (n, G) matrix whose rows can be asked for."""

    @property
    def num_rows(self) -> int:
        """n."""

    def read(self, rows: np.ndarray | None = None) -> sp.csr_matrix:
        """(m, G) float32 canonical CSR of some rows, in their order; of all where None."""


@dataclass(frozen=True, eq=False)
class HeldRows:
    """A matrix in memory.

    Attributes:
        matrix: (n, G) float32 canonical CSR.
    """

    matrix: sp.csr_matrix

    @property
    def num_rows(self) -> int:
        return int(self.matrix.shape[0])

    @cached_property
    def filled(self) -> np.ndarray:
        """(n,) bool, rows with any value."""
        return np.diff(self.matrix.indptr) > 0

    def read(self, rows: np.ndarray | None = None) -> sp.csr_matrix:
        return self.matrix if rows is None else self.matrix[rows]


@dataclass(frozen=True, eq=False)
class DerivedRows:
    """What a function of rows makes of those of another matrix, each time they are asked for.

    Attributes:
        base: the other matrix.
        rows: (n,) which of its rows.
        change: from some rows (m, G) to as many, each a function of its own row alone.
    """

    base: RowSource
    rows: np.ndarray
    change: Callable[[sp.csr_matrix], sp.csr_matrix]

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray | None = None) -> sp.csr_matrix:
        return self.change(self.base.read(self.rows if rows is None else self.rows[rows]))


def canonical_csr(counts: sp.spmatrix | np.ndarray) -> sp.csr_matrix:
    """A float32 CSR copy with sorted indices, duplicates summed and stored zeros removed."""
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def column_map(columns: np.ndarray, num_columns: int) -> sp.csr_matrix:
    """(F, num_columns) of ones: a matrix times it has its column f at ``columns[f]``, summed there.

    Args:
        columns: (F,) where each column goes; -1 for none.
        num_columns: how many there are then.
    """
    kept = np.flatnonzero(columns >= 0)
    ones = np.ones(len(kept), dtype=np.float32)
    return sp.csr_matrix((ones, (kept, columns[kept])), (len(columns), num_columns))
