"""The matrix of a slide left in its ``.h5ad`` file, of which rows are read when they are asked for.

The file is opened for each reading and closed after it, so that no handle is shared by threads,
loader processes or anything else that forks, and none is kept open for hundreds of slides.  What
is read goes the way that the reader of whole slides took: features that are no genes left out,
genes of one name summed, canonical form.

By rows (CSR) and dense matrices are read row by row.  One by columns (CSC) is read whole each time
and cut down to the rows asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import read_elem, sparse_dataset

from common.errors import MissingFile, UserError
from spatial_ipa.data.genes import gene_features
from spatial_ipa.data.h5ad import open_h5ad
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.matrices import canonical_csr, column_map
from spatial_ipa.data.parts import SlideParts
from spatial_ipa.data.stored import StoredSource, place_of

_ENTRY_BYTES = 8  # of an entry in memory: value and column
_DENSE_ROWS = 512  # read of a dense matrix at once


@dataclass(frozen=True)
class FileStamp:
    """What tells that a file has changed: size, time of the last change, and its number."""

    size: int
    changed: int
    number: int

    @staticmethod
    def of(path: Path) -> FileStamp:
        """Raises FileNotFoundError if there is no such file."""
        try:
            found = os.stat(path)
        except FileNotFoundError as error:
            raise MissingFile(f"{path}: no such file") from error
        return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows of a matrix in a file.  Build it with :meth:`of`.

    Attributes:
        path: of the file.
        at: where in it the matrix is.
        stamp: of the file when the slide was read and checked.
        rows: (n,) rows of the file's matrix.
        filled: (n,) bool, those that have counts; the others are taken to have none.
        columns: (F,) column of the slide that each of the file's goes to, -1 for none; None where
            they are the same.
        num_columns: G.
    """

    path: Path
    at: str
    stamp: FileStamp
    rows: np.ndarray
    filled: np.ndarray
    columns: np.ndarray | None
    num_columns: int

    @staticmethod
    def of(
        path: Path,
        stamp: FileStamp,
        keys: SlideKeys,
        parts: SlideParts,
        rows: np.ndarray,
        filled: np.ndarray,
        genes: Sequence[str],
    ) -> StoredRows:
        """The rows of a slide that was read of a file.

        Args:
            path: of the file.
            stamp: of the file, taken before it was read.
            keys: where in it the matrix is.
            parts: what was read of it.
            rows, filled, genes: of the slide.
        """
        column_of = {gene: column for column, gene in enumerate(genes)}
        kept = gene_features(parts.genes, parts.kinds)
        columns = np.array(
            [column_of[gene] if yes else -1 for gene, yes in zip(parts.genes, kept, strict=True)]
        )
        same = np.array_equal(columns, np.arange(len(genes)))
        at = place_of(keys.layer)
        return StoredRows(path, at, stamp, rows, filled, None if same else columns, len(genes))

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray | None = None) -> sp.csr_matrix:
        """See :class:`~spatial_ipa.data.matrices.RowSource`.

        Raises:
            FileNotFoundError: if the file is gone.
            ValueError: if it has changed since the slide was read, or cannot be read.
        """
        wanted = np.arange(self.num_rows) if rows is None else np.asarray(rows)
        filled = self.filled[wanted]
        order, inverse = np.unique(self.rows[wanted[filled]], return_inverse=True)
        self._refuse_changed()
        with open_h5ad(self.path) as file:
            source = StoredSource(file, self.path, "truncated or damaged")
            element = file[self.at]
            found = canonical_csr(source.read(lambda: _rows_of(element, order), element))
        self._refuse_changed()  # neither before nor while it was read
        if self.columns is not None:
            found = canonical_csr(found @ column_map(self.columns, self.num_columns))
        if not np.array_equal(inverse, np.arange(len(order))):
            found = found[inverse]
        ends = np.zeros(len(wanted) + 1, dtype=found.indptr.dtype)
        ends[1:][filled] = np.diff(found.indptr)
        shape = (len(wanted), self.num_columns)
        return sp.csr_matrix((found.data, found.indices, np.cumsum(ends, dtype=ends.dtype)), shape)

    def _refuse_changed(self) -> None:
        if FileStamp.of(self.path) != self.stamp:
            raise UserError(
                f"{self.path}: has changed since this run read it, whose slides are read from "
                "their files as they are needed; leave the file as it is and start again, or keep "
                "slides in memory (memory_mb=null)"
            )


def stored_mb(path: Path, keys: SlideKeys) -> float:
    """MB that the matrix of an ``.h5ad`` file takes in memory; of a dense one, at most.

    0 where the file has no such matrix, which its reader will say.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a readable ``.h5ad``.
    """
    with open_h5ad(path) as file:
        element = file.get(place_of(keys.layer))
        if isinstance(element, h5py.Group):
            element = element.get("data")
        if not isinstance(element, h5py.Dataset) or element.shape is None:
            return 0.0
        return float(np.prod(element.shape, dtype=np.float64)) * _ENTRY_BYTES / 1e6


def _rows_of(element: Any, rows: np.ndarray) -> Any:
    """Some rows, ascending, of a stored matrix, sparse or dense."""
    if isinstance(element, h5py.Dataset):
        return _dense_rows(element, rows)
    stored = sparse_dataset(element)
    if len(rows) == stored.shape[0]:
        return read_elem(element)
    if stored.format == "csc":
        return sp.csr_matrix(read_elem(element))[rows]
    return stored[rows]


def _dense_rows(matrix: h5py.Dataset, rows: np.ndarray) -> sp.csr_matrix:
    parts = [sp.csr_matrix((0, matrix.shape[1]), dtype=np.float32)]
    for start in range(0, len(rows), _DENSE_ROWS):
        some = rows[start : start + _DENSE_ROWS]
        for run in np.split(some, np.flatnonzero(np.diff(some) != 1) + 1):
            parts.append(canonical_csr(matrix[run[0] : run[-1] + 1]))
    return sp.vstack(parts, format="csr")
