"""The parts of a slide in an ``.h5ad`` file.

Read are the names of spots and genes, ``obs["patient"]``, one matrix (``X``, a layer or ``raw.X``)
and, for slides, one entry of ``obsm`` and what tells sections apart (``obs["library_id"]``, the
keys of ``uns["spatial"]``); everything else in the file is never touched.  Nothing is ever
unpickled.
"""

from __future__ import annotations

from pathlib import Path

import h5py
from anndata.io import read_elem

from common.errors import UserError
from spatial_ipa.data.checks import SlideParts, check_shape, distinct, gene_names
from spatial_ipa.data.h5ad import column_names, open_h5ad, read_column, row_names
from spatial_ipa.data.keys import RAW, SlideKeys, X


def read_h5ad_parts(path: Path, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
    """The parts of a file that are used, of matching shapes.

    Args:
        path: the file.
        keys: where in it to look.
        with_xy: read coordinates, and what tells sections apart.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a readable ``.h5ad``, a part is missing, or shapes disagree.
    """
    key, column = keys.coordinates, keys.gene_column
    with open_h5ad(path) as file:
        others = _other_matrices(file, keys.layer)
        matrix_at, genes_at = _location(keys.layer)
        if matrix_at not in file or genes_at not in file:
            raise UserError(f"{path}: has no {keys.matrix_name}; {others}")
        var, var_at = file[genes_at], genes_at.replace("/", ".")
        if not isinstance(var, h5py.Group):
            raise UserError(
                f"{path}: {var_at} is one array, as anndata before 0.7 wrote it; read the file "
                "with the tool that made it and save it with write_h5ad"
            )
        if with_xy and f"obsm/{key}" not in file:
            held = sorted(file["obsm"]) if "obsm" in file else []
            raise UserError(
                f"{path}: coordinates obsm[{key!r}] are missing (obsm has {held}); name "
                "the right key with spatial_key, or leave the file out of training"
            )
        if column is not None and column not in var:
            raise UserError(
                f"{path}: {var_at} has no column {column!r} to take gene names from (gene_key); it "
                f"has {', '.join(column_names(var)) or 'none'}"
            )
        try:
            # Other columns of obs and var are left alone: they may be anything.
            obs_names = row_names(file["obs"])
            names = row_names(var) if column is None else read_column(var, column)
            patient = read_column(file["obs"], "patient")
            sections = sections_of(file) if with_xy else []
            matrix = read_elem(file[matrix_at])
            xy = read_elem(file[f"obsm/{key}"]) if with_xy else None
        except Exception as error:  # h5py and anndata raise errors of all kinds here
            raise UserError(
                f"{path}: cannot be read: truncated, damaged, or written by a newer anndata than "
                f"the one installed here ({error})"
            ) from error
    names_at = f"{var_at}_names" if column is None else f"{var_at}[{column!r}]"
    genes = gene_names(names, str(path), names_at)
    where = f"{path}: {keys.matrix_name}"
    parts = SlideParts(matrix, genes, obs_names, patient, sections, xy, where, others)
    check_shape(parts._replace(where=keys.matrix_name), str(path), names_at)
    return parts


def sections_of(file: h5py.File) -> list[str]:
    """The sections a file names: the values of ``obs["library_id"]``, else the images it holds.

    Squidpy takes the column for its ``library_key``; scanpy keeps the image of a section in
    ``uns["spatial"][library_id]``, beside which there may be other entries.
    """
    column = read_column(file["obs"], "library_id")
    if column is not None:
        return distinct(column)
    held = file.get("uns/spatial")
    if not isinstance(held, h5py.Group):
        return []
    return sorted(
        name
        for name, entry in held.items()
        if isinstance(entry, h5py.Group) and {"images", "scalefactors"} & set(entry)
    )


def _location(layer: str | None) -> tuple[str, str]:
    """Where matrix and genes are in the file."""
    if layer in (None, X):
        return "X", "var"
    return ("raw/X", "raw/var") if layer == RAW else (f"layers/{layer}", "var")


def _other_matrices(file: h5py.File, layer: str | None) -> str:
    """What else the file could be read from, for messages about a matrix that is not right."""
    names = [name for name in (X, RAW) if _location(name)[0] in file]
    names += sorted(file.get("layers", ()))
    names = [name for name in names if name != (layer or X)]
    return f"other values of layer: {', '.join(names) or 'none'}"
