"""One slide, or one dissociated sample: counts, gene names and, where known, positions.

Counts are in memory, or in the slide's file until they are asked for
(:mod:`spatial_ipa.data.stored_rows`).

Its hashes identify what later stages cache.  ``expression_hash`` covers everything an embedding may
depend on, ``xy_hash`` everything a target may depend on, so that moving a spot does not invalidate
an embedding.  Both are SHA-256 of canonical bytes: row-sorted CSR without stored zeros, float32
values, int64 indices.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from common.errors import UserError
from spatial_ipa.data.checks import check_parts
from spatial_ipa.data.in_memory import parts_of_anndata
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.matrices import HeldRows, canonical_csr
from spatial_ipa.data.parts import SlideParts
from spatial_ipa.data.sections import split_rows
from spatial_ipa.data.stored_rows import StoredRows


@dataclass(frozen=True, eq=False)
class Slide:
    """Expression of n spots or cells.  Build it with :meth:`build` or read it from a file.

    Attributes:
        name: unique within a run; files give their stem.
        matrix: (n, G) float32 CSR, canonical; raw counts, or the logged values where ``is_logged``.
        genes: G gene names, unique, in the order of the columns.
        xy: (n, 2) float32, the slide's own unit and orientation; None for dissociated cells.
        obs_names: n names of spots or cells.
        is_logged: the values are log-normalised already.
        patient: donor, animal or block; None where the file does not say.
        expression_hash: of counts, genes and ``is_logged``.
        xy_hash: of the coordinates.
        content_hash: of the two hashes above; the name does not enter.
        rows: (n,) rows of the source that they are, ascending.
        notes: what the reader left out, changed or decided, a phrase each.
        values_stated: ``is_logged`` was said by the user, not found out.
    """

    name: str
    matrix: HeldRows | StoredRows
    genes: tuple[str, ...]
    xy: np.ndarray | None
    obs_names: tuple[str, ...]
    is_logged: bool
    patient: str | None
    expression_hash: str
    xy_hash: str
    content_hash: str
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    values_stated: bool = False

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
        xy_hash, content_hash = _hashes(expression_hash, xy)
        return Slide(
            name, HeldRows(matrix), tuple(sys.intern(str(gene)) for gene in genes), xy, names,
            is_logged, patient,
            expression_hash, xy_hash, content_hash, np.arange(num_rows),
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
            adata: counts, and coordinates.
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
        slides = Slide.all_from_parts(
            name,
            name,
            parts_of_anndata(adata, name, keys, with_xy=require_spatial),
            keys,
            require_spatial=require_spatial,
            min_spots=min_spots,
            logged=logged,
        )
        return only_one(slides, name)

    @staticmethod
    def all_from_parts(
        name: str,
        source: str,
        parts: SlideParts,
        keys: SlideKeys,
        *,
        require_spatial: bool,
        min_spots: int,
        logged: bool | None,
    ) -> list[Slide]:
        """Check what a reader gave, and build the slide, or that of each section.

        What was left out, changed or decided is said in one warning for each slide.

        Args:
            name: of the slide; sections get theirs after it, as ``name/section``.
            source: what to call it in messages.
            parts: of the slide.
            keys: where they were found, and what of them is read.
            require_spatial, min_spots, logged: see :func:`spatial_ipa.data.read.read_slide`.

        Raises:
            ValueError: on what cannot be used, or if no section has ``min_spots`` spots.
        """
        build = partial(
            _build,
            keys=keys,
            require_spatial=require_spatial,
            min_spots=min_spots,
            logged=logged,
        )
        if not (require_spatial and keys.section_columns):
            return [build(name, source, parts)]
        sections = split_rows(parts, keys.section_columns, source)
        by = f"by obs[{', '.join(map(repr, keys.section_columns))}]"
        small = {value: len(rows) for value, rows in sections.items() if len(rows) < min_spots}
        if len(small) == len(sections):
            raise UserError(
                f"{source}: none of the {len(sections)} sections {by} has {min_spots} spots; "
                "leave this file out, or name another section_key"
            )
        if small:
            warnings.warn(
                f"{source}: left out {len(small)} of {len(sections)} sections {by} with fewer than "
                f"{min_spots} spots: {', '.join(small)}",
                stacklevel=3,
            )
        return [
            build(
                name if len(sections) == 1 else f"{name}/{value}",
                source if len(sections) == 1 else f"{source}, section {value}",
                parts.take(rows),
            )
            for value, rows in sections.items()
            if value not in small
        ]

    def __len__(self) -> int:
        return self.matrix.num_rows

    @property
    def counts(self) -> sp.csr_matrix:
        """(n, G) all of ``matrix``; read anew each time where it is in a file."""
        return self.matrix.read()

    @property
    def is_streamed(self) -> bool:
        """Whether counts are in the slide's file until they are asked for."""
        return isinstance(self.matrix, StoredRows)

    @property
    def is_empty(self) -> np.ndarray:
        """(n,) bool, rows without any count: their position cannot be predicted."""
        return ~self.matrix.filled

    def without_coordinates(self) -> Slide:
        """The same expression with nothing left of its coordinates."""
        xy_hash, content_hash = _hashes(self.expression_hash, None)
        return replace(self, xy=None, xy_hash=xy_hash, content_hash=content_hash, notes=())


def only_one(slides: Sequence[Slide], source: str) -> Slide:
    """The one slide of a source.

    Raises:
        ValueError: if it was split into several sections.
    """
    if len(slides) > 1:
        raise UserError(
            f"{source}: {len(slides)} sections ({', '.join(s.name for s in slides[:5])}) where one "
            "slide is wanted; read them with read_slides"
        )
    return slides[0]


@dataclass(frozen=True)
class EmbeddedSlide:
    """A slide after the frozen encoder.

    Attributes:
        name: for messages and tables.
        h: (n, d) float32 embeddings, possibly memory-mapped; of a training slide those that look
            like a new slide's, as far as the encoder can make them.
        xy: (n, 2) float32 coordinates in the slide's own unit.
        h_frame: (n, d) float32 embeddings that positions are regressed on; ``h`` where None.
        fold: (n,) int64, cells that are left out together (:mod:`spatial_ipa.geometry.blocks`);
            of training slides.
        start: (n, 2) float32 positions by a regression that did not see the cell's fold.
    """

    name: str
    h: np.ndarray
    xy: np.ndarray
    h_frame: np.ndarray | None = None
    fold: np.ndarray | None = None
    start: np.ndarray | None = None

    def check_finite(self) -> None:
        """Raise ValueError, naming the slide, if embeddings hold NaN or infinity."""
        known = [x for x in (self.h, self.h_frame) if x is not None]
        if not all(np.isfinite(x).all() for x in known):
            raise UserError(f"slide {self.name}: embeddings hold NaN or infinity")


def _build(
    name: str,
    source: str,
    parts: SlideParts,
    *,
    keys: SlideKeys,
    require_spatial: bool,
    min_spots: int,
    logged: bool | None,
) -> Slide:
    """The slide of checked parts; its notes are shown as one warning."""
    checked = check_parts(
        parts, source, keys, require_spatial=require_spatial, min_spots=min_spots, logged=logged
    )
    if checked.notes:
        warnings.warn(f"{source}: {'; '.join(checked.notes)}", stacklevel=4)
    slide = Slide.build(
        name,
        checked.counts,
        checked.genes,
        checked.xy,
        obs_names=checked.obs_names,
        is_logged=checked.is_logged,
        patient=checked.patient,
    )
    stated = keys.values is not None or logged is not None
    return replace(slide, rows=checked.rows, notes=checked.notes, values_stated=stated)


def _hashes(expression_hash: str, xy: np.ndarray | None) -> tuple[str, str]:
    """Of coordinates, and of everything."""
    xy_hash = hashlib.sha256(b"none" if xy is None else xy.tobytes()).hexdigest()
    return xy_hash, hashlib.sha256(f"{expression_hash},{xy_hash}".encode()).hexdigest()


def _hash_expression(matrix: sp.csr_matrix, genes: Sequence[str], is_logged: bool) -> str:
    digest = hashlib.sha256(f"{matrix.shape},{is_logged},".encode())
    for part, dtype in ((matrix.indptr, "<i8"), (matrix.indices, "<i8"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype=dtype).tobytes())
    digest.update("\n".join(genes).encode())
    return digest.hexdigest()
