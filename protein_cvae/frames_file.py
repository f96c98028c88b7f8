"""Backbone frames in a file that is mapped into memory: only the frames that are used are read.

The file is NumPy's .npy, (M, L, 3, 3) float32 Å, so that a tensor over it is an ordinary tensor.  A
process that is started afresh (a loader worker under ``spawn``) gets the file's name and maps it
itself; a forked one shares the mapping, which has no position to be shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

_KIND = np.dtype("<f4")


class MappedFrames(torch.Tensor):
    """Frames that live in a file.  What is computed from them are plain tensors in memory.

    Writing to it changes neither the file nor what others see.  Make it with :func:`map_frames`.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    path: Path
    span: tuple[int, int]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return map_frames, (self.path, *self.span)


def map_frames(path: str | Path, first: int = 0, last: int | None = None) -> MappedFrames:
    """The frames of a file, at the residues ``first`` to ``last`` (excluded; None for all).

    Raises:
        ValueError: if the file does not hold such frames, or is cut short.
    """
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: holds no frames ({error}); delete it, it is made anew") from error
    if array.dtype != _KIND or array.ndim != 4 or array.shape[2:] != (3, 3):
        raise UserError(
            f"{path}: expected (M, L, 3, 3) of {_KIND}, got {array.shape} of {array.dtype}; "
            "delete it, it is made anew"
        )
    last = array.shape[1] if last is None else last
    found = torch.from_numpy(array)[:, first:last]
    mapped: MappedFrames = torch.Tensor._make_subclass(MappedFrames, found)
    mapped.path, mapped.span = Path(path), (first, last)
    return mapped


def write_frames(path: Path, shape: tuple[int, int], parts: Iterable[Tensor]) -> None:
    """Write frames part by part.

    Args:
        path: the file; replaced where it exists.
        shape: numbers M of frames and L of residues.
        parts: (m, L, 3, 3) float32 Å each, M frames in all.

    Raises:
        ValueError: if there is another number of frames.
    """
    written = 0
    header = {"descr": _KIND.str, "fortran_order": False, "shape": (*shape, 3, 3)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            file.write(part.numpy().astype(_KIND, copy=False).tobytes())
            written += len(part)
    if written != shape[0]:
        raise UserError(f"{path}: {written} frames were written, expected {shape[0]}")


def take_residues(frames: Tensor, index: Tensor) -> Tensor:
    """(M, n, 3, 3) of the residues (n,): of a file still a mapping where they follow each other."""
    if isinstance(frames, MappedFrames):
        first, last = int(index[0]), int(index[-1]) + 1
        if last - first == len(index) and bool((index.diff() == 1).all()):
            return map_frames(frames.path, frames.span[0] + first, frames.span[0] + last)
    return frames[:, index]
