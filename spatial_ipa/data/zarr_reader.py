"""Slides in zarr stores (folders): of anndata, and the tables of SpatialData."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import MissingFile, MissingPackage, UserError
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.parts import SlideParts, parts_of
from spatial_ipa.data.stored import StoredSource

_MARKS = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_TABLES = ("tables", "table")  # SpatialData keeps its tables there


def is_zarr(path: Path) -> bool:
    """Whether a path is a zarr store, or a group in one."""
    return path.is_dir() and any((path / mark).exists() for mark in _MARKS)


def read_zarr_parts(path: Path, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
    """The parts of a store that are used, of matching shapes.

    Args:
        path: the store; of SpatialData with several tables, the path of one in it.
        keys: where in it to look.
        with_xy: read coordinates, and what tells sections apart.

    Raises:
        FileNotFoundError: if there is no such store.
        ValueError: if it is not a readable store of anndata, a part is missing, or shapes disagree.
    """
    root, how = open_zarr(path)
    source = StoredSource(root, path, f"zarr store, damaged or of another version; {how}")
    return parts_of(source, str(path), keys, with_xy=with_xy)


def open_zarr(path: Path) -> tuple[Any, str]:
    """The group of the AnnData object in a store, and the lines that make an ``.h5ad`` of it.

    Raises:
        FileNotFoundError: if there is no such store.
        ValueError: if it holds no AnnData object, or several.
    """
    if not path.exists():
        raise MissingFile(f"{path}: no such file")
    if find_spec("zarr") is None:
        raise MissingPackage(f"{path}: zarr stores need the package zarr: pip install zarr")
    import zarr

    how = f"anndata.read_zarr('{path}').write_h5ad('{path.stem}.h5ad') makes an .h5ad of it"
    try:
        root: Any = zarr.open_group(str(path), mode="r")
        tables_at = next((name for name in _TABLES if name in root), None)
    except Exception as error:  # zarr raises errors of all kinds here
        raise UserError(f"{path}: zarr store that cannot be opened ({error}); {how}") from error
    if "obs" in root or tables_at is None:
        _check(root, path, how)
        return root, how
    tables = sorted(root[tables_at])
    if len(tables) != 1:
        inside = ", ".join(str(path / tables_at / name) for name in tables) or "none"
        raise UserError(
            f"{path}: zarr store of SpatialData with {len(tables)} tables; name the path of the "
            f"one with the cells: {inside}"
        )
    how = (
        f"spatialdata.read_zarr('{path}').tables['{tables[0]}'].write_h5ad('{path.stem}.h5ad') "
        "makes an .h5ad of it"
    )
    root = root[tables_at][tables[0]]
    _check(root, path, how)
    return root, how


def _check(root: Any, path: Path, how: str) -> None:
    """Refuse a group that is no AnnData object."""
    frames = [name for name in ("obs", "var") if name in root and "_index" in root[name].attrs]
    if len(frames) < 2:
        raise UserError(
            f"{path}: zarr store, but its table has no obs and var of anndata (found "
            f"{', '.join(sorted(root)) or 'nothing'}); {how}"
        )
