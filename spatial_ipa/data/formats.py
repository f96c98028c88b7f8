"""Formats of slide files.

A further one is a function that gives the :class:`~spatial_ipa.data.checks.SlideParts` of a file
and a row here; what is refused, mended or hashed is the same for all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from spatial_ipa.data.checks import SlideParts
from spatial_ipa.data.h5ad_reader import read_h5ad_parts
from spatial_ipa.data.keys import SlideKeys


class Reader(Protocol):
    """Reads the parts of one file that are used."""

    def __call__(self, path: Path, keys: SlideKeys, *, with_xy: bool) -> SlideParts: ...


READERS: dict[str, Reader] = {".h5ad": read_h5ad_parts}
"""By suffix, in lower case."""


def reader_for(path: Path) -> Reader:
    """The reader of a file by its suffix; that of ``.h5ad`` for any other, to say what is wrong."""
    return READERS.get(path.suffix.lower(), READERS[".h5ad"])
