"""Compression plugins of HDF5, which come in packages of their own."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import h5py


@cache
def register_filters() -> None:
    """Let HDF5 know the filters of hdf5plugin, if it is installed."""
    if find_spec("hdf5plugin") is not None:
        import_module("hdf5plugin")


def missing_filters(element: Any) -> str:
    """What to say if a part of a file needs a filter that is not there; "" else."""
    found: dict[int, str] = {}

    def look(name: str, part: Any) -> None:
        if not isinstance(part, h5py.Dataset):
            return
        made = part.id.get_create_plist()
        for i in range(made.get_nfilters()):
            code, *_, title = made.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                found.setdefault(code, f"{part.name} ({title.decode(errors='replace') or code})")

    if isinstance(element, h5py.Dataset):
        look("", element)
    elif isinstance(element, h5py.Group):
        element.visititems(look)
    if not found:
        return ""
    code, where = next(iter(found.items()))
    what = f"{where.split(' (')[0].lstrip('/')} is compressed with HDF5 filter {code}"
    if find_spec("hdf5plugin") is None:
        return f"{what}, which the package hdf5plugin brings: pip install hdf5plugin"
    return f"{what}, which hdf5plugin does not bring: write the file without it (h5repack -f NONE)"
