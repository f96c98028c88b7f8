"""The parts of a slide in an ``.h5ad`` file; nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

from spatial_ipa.data.h5ad import open_h5ad
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.parts import SlideParts, parts_of
from spatial_ipa.data.stored import StoredSource

_DAMAGED = "truncated, damaged, or written by a newer anndata than the one installed here"


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
    with open_h5ad(path) as file:
        return parts_of(StoredSource(file, path, _DAMAGED), str(path), keys, with_xy=with_xy)
