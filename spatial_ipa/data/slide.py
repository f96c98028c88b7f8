"""One slide, or one dissociated sample, in memory: counts, gene names and, where known, positions.

Its hashes identify what later stages cache.  ``expression_hash`` covers everything an embedding may
depend on, ``xy_hash`` everything a target may depend on, so that moving a spot does not invalidate
an embedding.  Both are SHA-256 of canonical bytes: row-sorted CSR without stored zeros, float32
values, int64 indices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from common.errors import UserError


@dataclass(frozen=True, eq=False)
class Slide:
    """Expression of n spots or cells.  Build it with :meth:`build` or read it from a file.

    Attributes:
        name: unique within a run; files give their stem.
        counts: (n, G) float32 CSR, canonical; raw counts, or the logged values where ``is_logged``.
        genes: G gene names, unique, in the order of the columns.
        xy: (n, 2) float32, the slide's own unit and orientation; None for dissociated cells.
        obs_names: n names of spots or cells.
        is_logged: the values are log-normalised already.
        patient: donor, animal or block; None where the file does not say.
        expression_hash: of counts, genes and ``is_logged``.
        xy_hash: of the coordinates.
        content_hash: of the two hashes above; the name does not enter.
    """

    name: str
    counts: sp.csr_matrix
    genes: tuple[str, ...]
    xy: np.ndarray | None
    obs_names: tuple[str, ...]
    is_logged: bool
    patient: str | None
    expression_hash: str
    xy_hash: str
    content_hash: str

    @staticmethod
    def build(
        name: str,
        counts: sp.spmatrix | np.ndarray,
        genes: Sequence[str],
        xy: np.ndarray | None,
        *,
        obs_names: Sequence[str] | None = None,
        is_logged: bool = False,
        patient: str | None = None,
    ) -> Slide:
        """Bring arrays into canonical form and hash them.

        Args:
            name: name of the slide.
            counts: (n, G), any sparse format, dense, or any real dtype; copied.
            genes: G unique names.
            xy: (n, 2) or None.
            obs_names: n names; row numbers if None.
            is_logged: see the class.
            patient: see the class.

        Raises:
            ValueError: if the shapes disagree or a gene name occurs twice.
        """
        matrix = canonical_csr(counts)
        num_rows, num_genes = matrix.shape
        names = tuple(map(str, range(num_rows) if obs_names is None else obs_names))
        if len(genes) != num_genes or len(names) != num_rows:
            raise UserError(
                f"slide {name!r}: counts have shape {matrix.shape} but there are {len(names)} "
                f"obs_names and {len(genes)} genes"
            )
        if len(set(genes)) != num_genes:
            raise UserError(f"slide {name!r}: gene names must be unique")
        if xy is not None:
            xy = np.array(xy, dtype=np.float32, order="C")
            if xy.shape != (num_rows, 2):
                raise UserError(f"slide {name!r}: xy must be ({num_rows}, 2), got {xy.shape}")
            xy.setflags(write=False)
        expression_hash = _hash_expression(matrix, genes, is_logged)
        xy_hash = hashlib.sha256(b"none" if xy is None else xy.tobytes()).hexdigest()
        content_hash = hashlib.sha256(f"{expression_hash},{xy_hash}".encode()).hexdigest()
        return Slide(
            name, matrix, tuple(genes), xy, names, is_logged, patient,
            expression_hash, xy_hash, content_hash,
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @cached_property
    def is_empty(self) -> np.ndarray:
        """(n,) bool, rows without any count: their position cannot be predicted."""
        return np.diff(self.counts.indptr) == 0


@dataclass(frozen=True)
class EmbeddedSlide:
    """A slide after the frozen encoder.

    Attributes:
        name: for messages and tables.
        h: (n, d) float32 embeddings, possibly memory-mapped.
        xy: (n, 2) float32 coordinates in the slide's own unit.
    """

    name: str
    h: np.ndarray
    xy: np.ndarray

    def check_finite(self) -> None:
        """Raise ValueError, naming the slide, if embeddings hold NaN or infinity."""
        if not np.isfinite(self.h).all():
            raise UserError(f"slide {self.name}: embeddings hold NaN or infinity")


def canonical_csr(counts: sp.spmatrix | np.ndarray) -> sp.csr_matrix:
    """A float32 CSR copy with sorted indices, duplicates summed and stored zeros removed."""
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _hash_expression(matrix: sp.csr_matrix, genes: Sequence[str], is_logged: bool) -> str:
    digest = hashlib.sha256(f"{matrix.shape},{is_logged},".encode())
    for part, dtype in ((matrix.indptr, "<i8"), (matrix.indices, "<i8"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype=dtype).tobytes())
    digest.update("\n".join(genes).encode())
    return digest.hexdigest()
