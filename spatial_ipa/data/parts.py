"""What is read of a source of slides, whatever its format: a file, a store, an object in memory.

Read are the names of spots and genes, one matrix (``X``, a layer or ``raw.X``), what kind of
feature each gene is and, for slides, coordinates and everything that may tell sections apart: the
columns of ``obs``, the region key of SpatialData and the images in ``uns["spatial"]``.  All else is
never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from common.errors import UserError
from spatial_ipa.data.genes import feature_types, gene_names, refuse_row_numbers
from spatial_ipa.data.keys import RAW, SlideKeys, X
from spatial_ipa.data.positions import coordinate_columns, missing_coordinates
from spatial_ipa.data.tissue_mask import is_tissue_column


class Frame(Protocol):
    """A data frame of a source."""

    def index(self) -> list[str]: ...

    def columns(self) -> list[str]: ...

    def column(self, key: str) -> Any: ...


class SlideSource(Protocol):
    """A source of slides, part by part.  Every method raises ValueError on a damaged part."""

    def matrices(self) -> list[str]:
        """``X`` and ``raw.X`` where they are there, then the layers."""

    def matrix(self, name: str) -> Any: ...

    def frame(self, name: str) -> Frame:
        """``obs``, ``var`` or ``raw.var``."""

    def coordinate_keys(self) -> list[str]:
        """The keys of ``obsm``."""

    def coordinates(self, key: str) -> Any: ...

    def region_key(self) -> str | None:
        """The column of ``obs`` that names the region of each row of a table of SpatialData."""

    def images(self) -> list[str]:
        """The sections with an image in ``uns["spatial"]``, as scanpy keeps them."""


@dataclass(frozen=True)
class SlideParts:
    """What is read of a slide, as stored but for gene names, which are stripped.

    Attributes:
        matrix: (n, G).
        genes: G names.
        obs_names: n names.
        obs: columns of ``obs``: for slides all that can be read, for cells those that matter.
        xy: (n, 2); None where coordinates were not asked for.
        xy_at: where they were found, for messages.
        where: what to call the matrix in a message.
        others: which other matrices there are, for a message about this one.
        kinds: the column of ``var`` that tells genes from other features, and its values.
        region_key: see :class:`SlideSource`.
        images: see :class:`SlideSource`.
        rows: (n,) rows of the source; all of them in order where None.
    """

    matrix: Any
    genes: list[str]
    obs_names: list[str]
    obs: Mapping[str, Any]
    xy: Any
    xy_at: str
    where: str
    others: str
    kinds: tuple[str, list[str]] | None = None
    region_key: str | None = None
    images: tuple[str, ...] = ()
    rows: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> SlideParts:
        """The parts of some rows, by number."""
        return replace(
            self,
            matrix=self.matrix[rows],
            obs_names=[self.obs_names[row] for row in rows],
            obs={name: _array(column)[rows] for name, column in self.obs.items()},
            xy=None if self.xy is None else _array(self.xy)[rows],
            rows=rows if self.rows is None else self.rows[rows],
        )


def parts_of(source: SlideSource, name: str, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
    """The parts of a source that are used, of matching shapes.

    Args:
        source: the source.
        name: what to call it in messages.
        keys: where in it to look.
        with_xy: read coordinates, and what tells sections apart.

    Raises:
        ValueError: if a part is missing or cannot be read, or shapes disagree.
    """
    wanted, there = keys.layer or X, source.matrices()
    others = [matrix for matrix in there if matrix != wanted]
    other_names = f"other values of layer: {', '.join(others) or 'none'}"
    if wanted not in there:
        raise UserError(f"{name}: has no {keys.matrix_name}; {other_names}")
    obs, var_at = source.frame("obs"), "raw.var" if wanted == RAW else "var"
    var, column = source.frame(var_at), keys.gene_column
    if with_xy:
        missing_coordinates(keys, source.coordinate_keys(), obs.columns(), name)
    if column is not None and column not in var.columns():
        raise UserError(
            f"{name}: {var_at} has no column {column!r} to take gene names from (gene_key); it "
            f"has {', '.join(var.columns()) or 'none'}"
        )
    names_at = f"{var_at}_names" if column is None else f"{var_at}[{column!r}]"
    obs_names = obs.index()
    genes = gene_names(var.index() if column is None else var.column(column), name, names_at)
    if keys.gene_key is None:
        refuse_row_numbers(genes, var, name, names_at)
    xy, xy_at = None, ""
    if with_xy:
        xy, xy_at = _coordinates(source, keys, obs)
    parts = SlideParts(
        source.matrix(wanted),
        genes,
        obs_names,
        _columns(obs, keys, every=with_xy),
        xy,
        xy_at,
        f"{name}: {keys.matrix_name}",
        other_names,
        feature_types(var),
        source.region_key() if with_xy else None,
        tuple(source.images()) if with_xy else (),
    )
    _check_shape(parts, name, keys.matrix_name, names_at)
    return parts


def _coordinates(source: SlideSource, keys: SlideKeys, obs: Frame) -> tuple[Any, str]:
    """Coordinates, and where they were found."""
    key = keys.coordinates
    if key in source.coordinate_keys():
        return source.coordinates(key), f"obsm[{key!r}]"
    columns = coordinate_columns(key)
    xy = np.column_stack([_array(obs.column(column)) for column in columns])
    return xy, " and ".join(f"obs[{column!r}]" for column in columns)


def _columns(obs: Frame, keys: SlideKeys, *, every: bool) -> dict[str, Any]:
    """Columns of ``obs``: those that matter, and as evidence, all others that can be read."""
    found: dict[str, Any] = {}
    for name in obs.columns():
        if name == "patient" or is_tissue_column(name) or name in keys.section_columns:
            found[name] = obs.column(name)
        elif every:
            try:
                found[name] = obs.column(name)
            except UserError:
                continue  # they may be anything
    return found


def _array(column: Any) -> Any:
    """A column as an array that can be indexed by row numbers, whatever holds it."""
    if hasattr(column, "to_numpy"):
        return column.to_numpy()
    return (
        column
        if hasattr(column, "shape") and not hasattr(column, "categories")
        else (np.asarray(column))
    )


def _check_shape(parts: SlideParts, name: str, matrix_name: str, names_at: str) -> None:
    """Refuse a matrix whose shape is not that of the names."""
    shape = np.shape(parts.matrix)
    if len(shape) != 2:
        raise UserError(f"{name}: {matrix_name} must be (spots, genes), got shape {shape}")
    if shape != (len(parts.obs_names), len(parts.genes)):
        raise UserError(
            f"{name}: {matrix_name} has shape {shape}, but there are {len(parts.obs_names)} "
            f"obs_names and {len(parts.genes)} {names_at}"
        )
    if 0 in shape:
        raise UserError(f"{name}: empty, {matrix_name} has shape {shape}")
