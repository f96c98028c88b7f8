"""Frames of trajectories: those that are asked for, and no others, by MDTraj and h5py; Å.

=====================  ==========================================================================
.xtc .trr .dcd .nc     sought frame by frame
.ncdf .netcdf .h5      the same; HDF5 of MDTraj, and NetCDF of AMBER in either of its two forms
.mdcrd .crd            text without places: read through, kept as far as asked for
=====================  ==========================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
from mdtraj.formats import (
    DCDTrajectoryFile,
    MDCRDTrajectoryFile,
    NetCDFTrajectoryFile,
    TRRTrajectoryFile,
    XTCTrajectoryFile,
)

from common.errors import MissingFile, UserError
from protein_cvae.io.atoms import box_vectors

_ANGSTROM_PER_NM = 10.0
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TOGETHER = 500  # frames read at once where they follow each other
HDF5_SUFFIXES = (".h5", ".hdf5")
_TEXT_SUFFIXES = (".mdcrd", ".crd")
SUFFIXES = (".xtc", ".trr", ".dcd", ".nc", ".ncdf", ".netcdf", *_TEXT_SUFFIXES, *HDF5_SUFFIXES)


class Frames(NamedTuple):
    """Some frames of a file."""

    xyz: np.ndarray  # (F, A, 3) float64 Å
    boxes: np.ndarray  # (F, 3, 3) Å, box vectors in rows; NaN where the file has none


class Trajectory(Protocol):
    """An open trajectory."""

    count: int  # of its frames

    def read(self, index: np.ndarray, atoms: np.ndarray | None = None) -> Frames:
        """The frames at these places, which ascend, and of them these atoms or all."""
        ...


def error_words(error: Exception) -> str:
    """Kind and message of an error, on one line of at most about 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def open_trajectory(path: Path, num_atoms: int) -> Iterator[Trajectory]:
    """A trajectory of so many atoms.

    Args:
        path: a file with one of ``SUFFIXES``.
        num_atoms: of the topology; the text formats do not say where a frame ends.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: at another suffix, or if the file is damaged, by whatever is read of it.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: no such trajectory")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: suffix {path.suffix!r} is no trajectory; expected one of "
            f"{', '.join(SUFFIXES)}"
        )
    with ExitStack() as stack:
        with _damage_named(path):
            trajectory = stack.enter_context(_open(path, suffix, num_atoms))
        yield _Named(trajectory, path)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the readers of six formats raise whatever comes up
        raise UserError(
            f"{path}: cannot be read as a trajectory; it is damaged or cut short "
            f"({error_words(error)})"
        ) from None


class _Named:
    """A trajectory whose errors name its file."""

    def __init__(self, trajectory: Trajectory, path: Path) -> None:
        self._trajectory, self._path = trajectory, path
        self.count = trajectory.count

    def read(self, index: np.ndarray, atoms: np.ndarray | None = None) -> Frames:
        with _damage_named(self._path):
            return self._trajectory.read(index, atoms)


@contextmanager
def _open(path: Path, suffix: str, num_atoms: int) -> Iterator[Trajectory]:
    with path.open("rb") as file:
        is_hdf5 = file.read(len(_HDF5)) == _HDF5
    if is_hdf5:
        with h5py.File(path, "r") as handle:
            yield _HDF5Frames(handle)
    elif suffix in _TEXT_SUFFIXES:
        with MDCRDTrajectoryFile(str(path), num_atoms) as handle:
            yield _TextFrames(handle)
    else:
        kind, unpack, unit = _BINARY[suffix]
        with kind(str(path)) as handle:
            yield _SoughtFrames(handle, unpack, unit)


def _vectors(read: tuple[Any, ...]) -> np.ndarray | None:
    """Boxes of xtc and trr: their vectors stand fourth."""
    found: np.ndarray | None = read[3]
    return found


def _edges(lengths: np.ndarray | None, angles: np.ndarray | None) -> np.ndarray | None:
    if lengths is None or angles is None:
        return None
    return box_vectors(np.asarray(lengths), np.asarray(angles))


_BINARY: dict[str, tuple[Any, Callable[[tuple[Any, ...]], np.ndarray | None], float]] = {
    ".xtc": (XTCTrajectoryFile, _vectors, _ANGSTROM_PER_NM),
    ".trr": (TRRTrajectoryFile, _vectors, _ANGSTROM_PER_NM),
    ".dcd": (DCDTrajectoryFile, lambda read: _edges(read[1], read[2]), 1.0),
    ".nc": (NetCDFTrajectoryFile, lambda read: _edges(read[2], read[3]), 1.0),
}
_BINARY |= dict.fromkeys((".ncdf", ".netcdf"), _BINARY[".nc"])


class _SoughtFrames:
    """Frames of a binary format.

    Args:
        handle: MDTraj's.
        unpack: what it reads -> box vectors in its unit, or None.
        unit: Å of its unit.
    """

    def __init__(
        self,
        handle: Any,
        unpack: Callable[[tuple[Any, ...]], np.ndarray | None],
        unit: float,
    ) -> None:
        self._handle, self._unpack, self._unit = handle, unpack, unit
        self.count = len(handle)

    def read(self, index: np.ndarray, atoms: np.ndarray | None = None) -> Frames:
        parts, boxes = [], []
        for run in _runs(index):
            self._handle.seek(int(run[0]))
            read = self._handle.read(n_frames=len(run), atom_indices=atoms)
            if len(read[0]) != len(run):
                raise ValueError(f"frame {int(run[0]) + len(read[0]) + 1} ends before its atoms")
            parts.append(np.asarray(read[0], dtype=np.float64) * self._unit)
            box = self._unpack(read)
            blank = np.full((len(run), 3, 3), np.nan)
            boxes.append(blank if box is None else (box * self._unit).astype(np.float64))
        return Frames(np.concatenate(parts), np.concatenate(boxes))


def _runs(index: np.ndarray) -> Iterator[np.ndarray]:
    """Stretches of indices that follow each other, of bounded length."""
    for run in np.split(index, np.flatnonzero(np.diff(index) != 1) + 1):
        for first in range(0, len(run), _TOGETHER):
            yield run[first : first + _TOGETHER]


class _HDF5Frames:
    """Frames of MDTraj's HDF5, in nm, or AMBER's NetCDF 4, in Å."""

    def __init__(self, handle: h5py.File) -> None:
        self._handle = handle
        units = handle["coordinates"].attrs.get("units", b"nanometers")
        text = units.decode() if isinstance(units, bytes) else str(units)
        self._unit = 1.0 if text.lower().startswith("angstrom") else _ANGSTROM_PER_NM
        self.count = len(handle["coordinates"])

    def read(self, index: np.ndarray, atoms: np.ndarray | None = None) -> Frames:
        xyz = np.stack([self._frame(int(i), atoms) for i in index])
        boxes = np.full((len(index), 3, 3), np.nan)
        if "cell_lengths" in self._handle and "cell_angles" in self._handle:
            lengths, angles = (self._handle[f"cell_{kind}"][:] for kind in ("lengths", "angles"))
            boxes = box_vectors(lengths[index] * self._unit, angles[index])
        return Frames(xyz, boxes)

    def _frame(self, index: int, atoms: np.ndarray | None) -> np.ndarray:
        frame = np.asarray(self._handle["coordinates"][index], dtype=np.float64) * self._unit
        return frame if atoms is None else frame[atoms]


class _TextFrames:
    """Frames of AMBER's text format."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.count = 0
        while len(handle.read(n_frames=_TOGETHER, atom_indices=np.array([0]))[0]) > 0:
            self.count = handle.tell()
        handle.seek(0)

    def read(self, index: np.ndarray, atoms: np.ndarray | None = None) -> Frames:
        if self._handle.tell() > index[0]:
            self._handle.seek(0)
        wanted, place, parts, lengths = set(index.tolist()), self._handle.tell(), [], []
        while place <= index[-1]:
            xyz, edges = self._handle.read(n_frames=_TOGETHER, atom_indices=atoms)
            taken = [i for i in range(len(xyz)) if place + i in wanted]
            parts.append(np.asarray(xyz[taken], dtype=np.float64))
            blank = np.full((len(taken), 3), np.nan)
            lengths.append(blank if edges is None else np.asarray(edges)[taken])
            place += len(xyz)
        edges = np.concatenate(lengths)
        return Frames(np.concatenate(parts), box_vectors(edges, np.full_like(edges, 90.0)))
