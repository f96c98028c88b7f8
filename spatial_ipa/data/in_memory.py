"""The parts of a slide in an AnnData object, which is never changed."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from pandas import DataFrame

from spatial_ipa.data.keys import RAW, SlideKeys, X
from spatial_ipa.data.parts import SlideParts, parts_of


class MemoryFrame:
    """A data frame of an AnnData object."""

    def __init__(self, frame: DataFrame) -> None:
        self.frame = frame

    def index(self) -> list[str]:
        return [str(name) for name in self.frame.index]

    def columns(self) -> list[str]:
        return [str(name) for name in self.frame.columns]

    def column(self, key: str) -> Any:
        return self.frame.iloc[:, self.columns().index(key)]


class MemorySource:
    """The parts of an AnnData object; the matrix of a backed one is read."""

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata

    def matrices(self) -> list[str]:
        adata = self.adata
        there = [name for name, part in ((X, adata.X), (RAW, adata.raw)) if part is not None]
        return there + sorted(adata.layers)

    def matrix(self, name: str) -> Any:
        if name in (X, RAW):
            found = self.adata.X if name == X else self.adata.raw.X
        else:
            found = self.adata.layers[name]
        return found[:] if getattr(self.adata, "isbacked", False) else found

    def frame(self, name: str) -> MemoryFrame:
        if name == "raw.var":
            return MemoryFrame(self.adata.raw.var)
        return MemoryFrame(self.adata.obs if name == "obs" else self.adata.var)

    def coordinate_keys(self) -> list[str]:
        return sorted(self.adata.obsm)

    def coordinates(self, key: str) -> Any:
        return self.adata.obsm[key]

    def region_key(self) -> str | None:
        held = self.adata.uns.get("spatialdata_attrs")
        key = held.get("region_key") if isinstance(held, dict) else None
        return None if key is None else str(key)

    def images(self) -> list[str]:
        held = self.adata.uns.get("spatial")
        if not isinstance(held, dict):
            return []
        return sorted(
            str(name)
            for name, entry in held.items()
            if isinstance(entry, dict) and {"images", "scalefactors"} & set(entry)
        )


def parts_of_anndata(adata: AnnData, source: str, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
    """What is used of an AnnData object.

    Args:
        adata: the object.
        source: what to call it in messages.
        keys: where to look.
        with_xy: take coordinates, and what tells sections apart.

    Raises:
        ValueError: if a part is missing or shapes disagree.
    """
    return parts_of(MemorySource(adata), source, keys, with_xy=with_xy)
