"""The ``.h5ad`` container: opening it safely, and its data frames.

An ``.h5ad`` file is HDF5 with one group per part of an AnnData object.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import h5py
from anndata.io import read_elem

from common.errors import MissingFile, UserError
from spatial_ipa.data.filters import register_filters

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
    frames = all(isinstance(file.get(key), h5py.Group) for key in ("obs", "var"))
    if not frames or "mod" in file:
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
