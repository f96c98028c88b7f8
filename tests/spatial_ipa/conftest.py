"""Fixtures for slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pytest

from spatial_ipa.data.formats import READERS
from spatial_ipa.data.h5ad_reader import read_h5ad_parts
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.parts import SlideParts


@pytest.fixture
def toy_format(monkeypatch: pytest.MonkeyPatch) -> Callable[[ad.AnnData, Path], Path]:
    """A further format of slides, ``.toy``, and what writes one: text, with an h5ad beside it."""

    def read(path: Path, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
        return read_h5ad_parts(path.with_suffix(".beside"), keys, with_xy=with_xy)

    def write(data: ad.AnnData, path: Path) -> Path:
        data.write_h5ad(path.with_suffix(".beside"))
        path.write_text("a toy\n")
        return path

    monkeypatch.setitem(READERS, ".toy", read)
    return write
