"""Formats of slide files.

A further one is a function that gives the :class:`~spatial_ipa.data.parts.SlideParts` of a file
and a row here; what is refused, mended or hashed is the same for all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from spatial_ipa.data.h5ad_reader import read_h5ad_parts
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.parts import SlideParts
from spatial_ipa.data.zarr_reader import is_zarr, read_zarr_parts


class Reader(Protocol):
    """Reads the parts of one file that are used."""

    def __call__(self, path: Path, keys: SlideKeys, *, with_xy: bool) -> SlideParts: ...


READERS: dict[str, Reader] = {".h5ad": read_h5ad_parts, ".zarr": read_zarr_parts}
"""By suffix, in lower case; zarr stores are folders."""


def reader_for(path: Path) -> Reader:
    """The reader of a file or store; that of ``.h5ad`` for any other, to say what is wrong."""
    suffix = ".zarr" if is_zarr(path) else path.suffix.lower()
    return READERS.get(suffix, READERS[".h5ad"])


def is_streamable(path: Path) -> bool:
    """Whether counts can be left in a file and read by rows: HDF5 alone."""
    return reader_for(path) is read_h5ad_parts


def is_source(path: Path) -> bool:
    """Whether an entry of a folder is a slide; hidden companions of files are none."""
    known = path.suffix.lower() in READERS or is_zarr(path)
    return known and not path.name.startswith(".")
