"""One slide, or one dissociated sample, in memory: counts, gene names and, where known, positions.

Its hashes identify what later stages cache.  ``expression_hash`` covers everything an embedding may
depend on, ``xy_hash`` everything a target may depend on, so that moving a spot does not invalidate
an embedding.  Both are SHA-256 of canonical bytes: row-sorted CSR without stored zeros, float32
values, int64 indices.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from common.errors import UserError
from spatial_ipa.data.checks import (
    LOGGED_BELOW,
    SlideParts,
    canonical_csr,
    checked_counts,
    checked_xy,
    looks_logged,
    patient_of,
    refuse_several_sections,
    unique_genes,
)
from spatial_ipa.data.in_memory import parts_of_anndata
from spatial_ipa.data.keys import SlideKeys


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

    @staticmethod
    def from_anndata(
        adata: AnnData,
        keys: SlideKeys = SlideKeys(),
        *,
        name: str = "adata",
        require_spatial: bool = True,
        min_spots: int = 50,
        logged: bool | None = None,
    ) -> Slide:
        """A slide from an AnnData object, with the checks of a file; the object is not changed.

        Args:
            adata: counts, and coordinates in ``obsm``.
            keys: where in it they are.
            name: of the slide, also in messages.
            require_spatial: see :func:`spatial_ipa.data.read.read_slide`.
            min_spots: fewest spots or cells accepted.
            logged: whether the values are log-normalised; None decides.

        Raises:
            ValueError: as :func:`spatial_ipa.data.read.read_slide`.

        Example:
            >>> import spatial_ipa
            >>> slide = spatial_ipa.Slide.from_anndata(example_adata, name="mine")
            >>> slide.name, len(slide)
            ('mine', 80)
        """
        parts = parts_of_anndata(adata, name, keys, with_xy=require_spatial)
        return Slide.from_parts(
            name,
            name,
            parts,
            keys,
            require_spatial=require_spatial,
            min_spots=min_spots,
            logged=logged,
        )

    @staticmethod
    def from_parts(
        name: str,
        source: str,
        parts: SlideParts,
        keys: SlideKeys,
        *,
        require_spatial: bool,
        min_spots: int,
        logged: bool | None,
    ) -> Slide:
        """Check what a reader gave, and build the slide.

        Args:
            name: of the slide.
            source: what to call it in messages.
            parts: of the slide.
            keys: where they were found.
            require_spatial, min_spots, logged: see :func:`spatial_ipa.data.read.read_slide`.
        """
        counts = checked_counts(parts.matrix, parts.where, parts.others)
        if logged is None:
            logged = looks_logged(counts)
            if logged:
                warnings.warn(
                    f"{parts.where} is taken as log-normalised: not all values are whole numbers "
                    f"and none reaches {LOGGED_BELOW:g} (maximum {counts.data.max():.3g}); if they "
                    "are counts, as after removal of ambient RNA, round them; "
                    f"{parts.others}",
                    stacklevel=3,
                )
        genes, counts = unique_genes(parts.genes, counts, source, logged)
        refuse_several_sections(parts.sections, source)
        patient = patient_of(parts.patient, source, one_only=require_spatial)
        xy, obs_names = parts.xy, np.asarray(parts.obs_names, dtype=object)
        if require_spatial:
            keep = np.diff(counts.indptr) > 0
            if not keep.all():
                warnings.warn(
                    f"{source}: dropped {int((~keep).sum())} of {keep.size} spots without any "
                    "count",
                    stacklevel=3,
                )
                counts, obs_names = counts[keep], obs_names[keep]
            key = keys.coordinates
            xy = checked_xy(xy, source, key, keep.size)[keep]
            if len(xy) and not np.ptp(xy, axis=0).any():
                raise UserError(f"{source}: obsm[{key!r}] has all spots at one position {xy[0]}")
        if counts.shape[0] < min_spots:
            raise UserError(
                f"{source}: {counts.shape[0]} spots with counts, at least {min_spots} are needed; "
                "leave this file out"
            )
        return Slide.build(
            name,
            counts,
            genes,
            xy,
            obs_names=obs_names.tolist(),
            is_logged=logged,
            patient=patient,
        )

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


def _hash_expression(matrix: sp.csr_matrix, genes: Sequence[str], is_logged: bool) -> str:
    digest = hashlib.sha256(f"{matrix.shape},{is_logged},".encode())
    for part, dtype in ((matrix.indptr, "<i8"), (matrix.indices, "<i8"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype=dtype).tobytes())
    digest.update("\n".join(genes).encode())
    return digest.hexdigest()
