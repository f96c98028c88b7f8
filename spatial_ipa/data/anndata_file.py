"""Whole AnnData objects in files and stores, and copies of them with a prediction added.

Fields are added to a copy of an ``.h5ad`` part by part, so the matrix is never loaded, and what is
not touched stays byte for byte; the copy of a zarr store is an ``.h5ad``, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import read_elem, write_elem

from common.errors import ExistingFile, MissingFile, MissingPackage, UserError
from common.files.atomic import atomic_path
from spatial_ipa.data.filters import missing_filters
from spatial_ipa.data.h5ad import column_names, open_h5ad, row_names
from spatial_ipa.data.zarr_reader import is_zarr, open_zarr

# What fields of a prediction are called, or begin with.
_PREFIXES = ("spatial_ipa", "X_spatial_ipa")


def read_anndata(path: Path) -> AnnData:
    """A whole file or store as an AnnData object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a readable ``.h5ad``, or zarr store of anndata.
    """
    if is_zarr(path):
        root, how = open_zarr(path)
        try:
            return read_elem(root)
        except Exception as error:  # zarr and anndata raise errors of all kinds here
            raise UserError(f"{path}: zarr store, cannot be read ({error}); {how}") from error
    with open_h5ad(path) as file:
        missing = missing_filters(file)
    if missing:
        raise MissingPackage(f"{path}: {missing}")
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise errors of all kinds here
        raise UserError(f"{path}: cannot be read ({error})") from error


def require_copyable(path: Path) -> None:
    """Refuse a file, of another format of slides, that :func:`write_prediction` could not copy.

    Raises:
        ValueError: if it is not a readable ``.h5ad`` or zarr store of anndata.
    """
    if is_zarr(path):
        open_zarr(path)
        return
    try:
        with open_h5ad(path):
            pass
    except UserError as error:
        raise UserError(
            f"{path}: cells are placed in a copy of their file, so it must be an .h5ad; save it "
            f"with write_h5ad of anndata ({error})"
        ) from error


def earlier_prediction(path: Path) -> list[str]:
    """Fields that an earlier prediction left in a file, such as ``obsm['X_spatial_ipa']``."""
    if is_zarr(path):
        return _earlier(open_zarr(path)[0])
    with open_h5ad(path) as file:
        return _earlier(file)


def _earlier(root: Any) -> list[str]:
    return [
        f"{group}[{key!r}]"
        for group in ("obsm", "obs", "obsp", "uns")
        if group in root
        for key in sorted(fields_of_prediction(root[group]))
    ]


def fields_of_prediction(keys: Iterable[str]) -> list[str]:
    """Those of some names that a prediction gave."""
    return [key for key in keys if key.startswith(_PREFIXES)]


def write_prediction(
    path_in: str | Path,
    path_out: str | Path,
    *,
    obsm: Mapping[str, np.ndarray] | None = None,
    obs: Mapping[str, np.ndarray] | None = None,
    obsp: Mapping[str, sp.spmatrix] | None = None,
    uns: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy a file and add fields; everything else in it stays as it is.

    The copy is made under a temporary name in the folder of ``path_out`` and renamed when it is
    complete, so ``path_out`` is either the whole result or untouched.

    Args:
        path_in: ``.h5ad`` or zarr store with n rows, never changed.
        path_out: ``.h5ad`` to write.
        obsm: arrays (n, d).
        obs: columns (n,).
        obsp: sparse (n, n), stored as CSR.
        uns: anything anndata can store.
        overwrite: replace an existing ``path_out``, and drop all fields of an earlier prediction
            from the copy.

    Raises:
        FileExistsError: if ``path_out`` exists and ``overwrite`` is False.
        ValueError: if ``path_out`` is ``path_in``, a field has the wrong number of rows, or it
            exists already and ``overwrite`` is False.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    same_file = path_out.exists() and path_in.exists() and path_out.samefile(path_in)
    if same_file or path_out.resolve() == path_in.resolve():
        raise UserError(f"path_out is the input file {path_in}; choose another name")
    if path_out.exists() and not overwrite:
        raise ExistingFile(f"{path_out} exists; choose another name or set overwrite=True")
    if not path_out.parent.is_dir():
        raise MissingFile(f"folder {path_out.parent} of path_out does not exist")
    require_copyable(path_in)
    with atomic_path(path_out) as temporary:
        if is_zarr(path_in):
            read_anndata(path_in).write_h5ad(temporary)
        else:
            shutil.copyfile(path_in, temporary)
        with h5py.File(temporary, "r+") as file:
            if overwrite:
                _delete_earlier(file)
            num_rows = len(row_names(file["obs"]))
            for key, value in (obsm or {}).items():
                _check_rows(f"obsm[{key!r}]", value, (num_rows,))
                _add(file, "obsm", key, np.asarray(value), overwrite)
            for key, graph in (obsp or {}).items():
                _check_rows(f"obsp[{key!r}]", graph, (num_rows, num_rows))
                _add(file, "obsp", key, sp.csr_matrix(graph), overwrite)
            for key, entry in (uns or {}).items():
                _add(file, "uns", key, entry, overwrite)
            for key, value in (obs or {}).items():
                _check_rows(f"obs[{key!r}]", value, (num_rows,))
                _add(file, "obs", key, np.asarray(value), overwrite)
            if obs:
                order = column_names(file["obs"])
                _set_columns(file["obs"], [*order, *(key for key in obs if key not in order)])
    return path_out


def _set_columns(frame: h5py.Group, columns: list[str]) -> None:
    frame.attrs["column-order"] = np.array(columns, dtype=h5py.string_dtype())


def _delete_earlier(file: h5py.File) -> None:
    """Delete an earlier prediction: none of its fields may stand beside those of a new one."""
    for group in ("obsm", "obsp", "uns", "obs"):
        for key in fields_of_prediction(file.get(group, ())):
            del file[group][key]
    kept = [key for key in column_names(file["obs"]) if key in file["obs"]]
    _set_columns(file["obs"], kept)


def _add(file: h5py.File, group: str, key: str, value: object, overwrite: bool) -> None:
    if group not in file:
        write_elem(file, group, {})
    _check_new(f"{group}[{key!r}]", key in file[group], overwrite)
    write_elem(file[group], key, value)


def _check_rows(where: str, value: Any, expected: tuple[int, ...]) -> None:
    shape = np.shape(value)
    if shape[: len(expected)] != expected:
        raise UserError(f"{where} must start with shape {expected}, got {shape}")


def _check_new(where: str, exists: bool, overwrite: bool) -> None:
    if exists and not overwrite:
        raise UserError(
            f"{where} exists already in path_in; set overwrite=True to replace it in the copy"
        )
