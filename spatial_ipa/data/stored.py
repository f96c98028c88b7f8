"""A slide kept in a file or store of anndata: HDF5 and zarr have the same groups and attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anndata.io import read_elem

from common.errors import MissingPackage, UserError
from spatial_ipa.data.filters import missing_filters
from spatial_ipa.data.h5ad import column_names, read_column, row_names
from spatial_ipa.data.keys import RAW, X

_AT = {X: "X", RAW: "raw/X", "raw.var": "raw/var"}


def place_of(layer: str | None) -> str:
    """Where in a store the matrix is that ``keys.layer`` names."""
    name = layer or X
    return _AT.get(name, f"layers/{name}")


class StoredFrame:
    """A stored data frame, read column by column."""

    def __init__(self, group: Any, source: StoredSource) -> None:
        self.group, self.source = group, source

    def index(self) -> list[str]:
        return list(self.source.read(lambda: row_names(self.group), self.group))

    def columns(self) -> list[str]:
        return [name for name in column_names(self.group) if name in self.group]

    def column(self, key: str) -> Any:
        return self.source.read(lambda: read_column(self.group, key), self.group)


class StoredSource:
    """The parts of a store.

    Args:
        root: the open group.
        path: of the store, for messages.
        damaged: what a part that cannot be read may come from.
    """

    def __init__(self, root: Any, path: Path, damaged: str) -> None:
        self.root, self.path, self.damaged = root, path, damaged

    def read(self, make: Callable[[], Any], element: Any) -> Any:
        """What ``make`` reads of an element.

        Raises:
            ValueError: if that fails, with the compression plugin that is missing if one is.
        """
        try:
            return make()
        except Exception as error:  # h5py, zarr and anndata raise errors of all kinds here
            if missing := missing_filters(element):
                raise MissingPackage(f"{self.path}: {missing}") from error
            raise UserError(f"{self.path}: cannot be read: {self.damaged} ({error})") from error

    def matrices(self) -> list[str]:
        there = [name for name in (X, RAW) if self._holds(_AT[name])]
        if "raw/var" not in self.root and RAW in there:
            there.remove(RAW)
        layers = self.root.get("layers", ())
        return there + sorted(name for name in layers if self._holds(f"layers/{name}"))

    def matrix(self, name: str) -> Any:
        return self._element(place_of(name))

    def frame(self, name: str) -> StoredFrame:
        at = _AT.get(name, name)
        if at not in self.root or not _is_group(self.root[at]):
            raise UserError(
                f"{self.path}: {name} is one array, as anndata before 0.7 wrote it; read the file "
                "with the tool that made it and save it with write_h5ad"
            )
        return StoredFrame(self.root[at], self)

    def coordinate_keys(self) -> list[str]:
        return sorted(self.root["obsm"]) if "obsm" in self.root else []

    def coordinates(self, key: str) -> Any:
        return self._element(f"obsm/{key}")

    def region_key(self) -> str | None:
        at = "uns/spatialdata_attrs/region_key"
        return str(self._element(at)) if at in self.root else None

    def images(self) -> list[str]:
        held: Any = self.root.get("uns/spatial")
        if not _is_group(held):
            return []
        return sorted(
            name
            for name in held
            if _is_group(held[name]) and {"images", "scalefactors"} & set(held[name])
        )

    def _element(self, at: str) -> Any:
        return self.read(lambda: read_elem(self.root[at]), self.root[at])

    def _holds(self, at: str) -> bool:
        """Whether there is a matrix, and not what newer versions write where there is none."""
        if at not in self.root:
            return False
        element = self.root[at]
        if element.attrs.get("encoding-type") == "null":
            return False
        return _is_group(element) or element.shape is not None


def _is_group(element: Any) -> bool:
    return hasattr(element, "keys")
