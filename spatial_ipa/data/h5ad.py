"""The ``.h5ad`` container: opening it safely, and copying it with fields added.

An ``.h5ad`` file is HDF5 with one group per part of an AnnData object.  Fields are added to a copy
part by part, so the matrix is never loaded, and what is not touched stays byte for byte.
"""

from __future__ import annotations

import errno
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
from spatial_ipa.data.filters import missing_filters, register_filters

# What fields of a prediction are called, or begin with.
_PREFIXES = ("spatial_ipa", "X_spatial_ipa")


_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OTHER_FILES = {
    b"version https://git-lfs": "a Git LFS pointer: get the file itself with git lfs pull",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"<": "a web page or XML: the download went wrong",
    b"\x00\x05\x16\x07": "an AppleDouble companion that macOS put beside a file, not the file",
}


def open_h5ad(path: Path) -> h5py.File:
    """Open for reading, after checking that it is an ``.h5ad`` file of anndata 0.7 or newer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, truncated, held by another process, or may not be read.
    """
    register_filters()
    try:
        if not path.exists():
            raise MissingFile(f"{path}: no such file")
        what = _other_format(path)
        if what is not None:
            raise UserError(f"{path}: not an .h5ad file (HDF5 written by anndata){what}")
        file = h5py.File(path, "r")
    except PermissionError as error:
        raise UserError(f"{path}: may not be read by this user ({error.strerror})") from error
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: {_why_not_opened(error)}") from error
    if not all(isinstance(file.get(key), h5py.Group) for key in ("obs", "var")):
        found = ", ".join(sorted(file)) or "nothing"
        hint = "; of a MuData file save one modality, mdata['rna']" if "mod" in file else ""
        file.close()
        raise UserError(
            f"{path}: an HDF5 file but not an .h5ad of anndata 0.7 or newer (needs obs and var, "
            f"found {found}); read it with the tool that made it and save it with write_h5ad{hint}"
        )
    return file


def _other_format(path: Path) -> str | None:
    """What a file is that is not HDF5, as far as its first bytes tell; None if it is HDF5."""
    if path.is_dir():
        return ""
    with path.open("rb") as file:
        start = file.read(4096)
    if any(start[at : at + 8] == _SIGNATURE for at in (0, 512, 1024, 2048)):
        return None
    if not start:
        return ": it is empty"
    return next((f": {what}" for mark, what in _OTHER_FILES.items() if start.startswith(mark)), "")


def _why_not_opened(error: OSError) -> str:
    """Why HDF5 does not open a file."""
    text = str(error)
    if "already open for write" in text:
        return (
            "open for writing elsewhere, or left so by a process that ended early: close it there, "
            f"or clear its mark with h5clear -s ({error})"
        )
    if error.errno in (errno.ENOLCK, errno.ENOSYS):
        return (
            "its file system knows no locks: set HDF5_USE_FILE_LOCKING=FALSE in the environment "
            f"({error})"
        )
    if error.errno in (errno.EAGAIN, errno.EACCES) or "unable to lock file" in text:
        return (
            "open for writing elsewhere (another process or notebook holds it, such as one with "
            "backed='r+'): close it there, or set HDF5_USE_FILE_LOCKING=FALSE if nothing writes "
            f"to it ({error})"
        )
    return f"cannot be opened, truncated or damaged ({error})"


def read_h5ad(path: str | Path) -> AnnData:
    """A whole file as an AnnData object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a readable ``.h5ad``.
    """
    with open_h5ad(Path(path)) as file:
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
        ValueError: if it is not a readable ``.h5ad``.
    """
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
    with open_h5ad(path) as file:
        return [
            f"{group}[{key!r}]"
            for group in ("obsm", "obs", "obsp", "uns")
            if group in file
            for key in sorted(fields_of_prediction(file[group]))
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
    """Copy an ``.h5ad`` file and add fields; everything else in it stays as it is.

    The copy is made under a temporary name in the folder of ``path_out`` and renamed when it is
    complete, so ``path_out`` is either the whole result or untouched.

    Args:
        path_in: file with n rows, never changed.
        path_out: file to write.
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
    with open_h5ad(path_in):
        pass  # refuse an unreadable input before copying it
    with atomic_path(path_out) as temporary:
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


def row_names(frame: Any) -> list[str]:
    """The index of a stored data frame, such as ``obs``, of an HDF5 file or a zarr store."""
    return [str(name) for name in read_elem(frame[frame.attrs["_index"]])]


def read_column(frame: Any, key: str) -> Any:
    """One column of a stored data frame; None if there is none of that name."""
    if key not in frame:
        return None
    if frame.attrs.get("encoding-version") == "0.1.0":  # anndata 0.7 kept categories elsewhere
        return read_elem(frame)[key]
    return read_elem(frame[key])


def column_names(frame: Any) -> list[str]:
    """The columns of a stored data frame, without its index."""
    return [str(key) for key in frame.attrs["column-order"]]


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
