"""The pictures of the pages: small files, wide enough to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

FOLDER = Path(__file__).parents[2] / "docs" / "figures"


def test_a_picture_has_few_colours_and_no_visible_change(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    figures = load_benchmark("figures")
    figure = Figure(figsize=(3, 2))
    figure.subplots().scatter(*np.random.default_rng(0).random((2, 500)), c=np.arange(500))
    figures.save(figure, tmp_path / "new" / "x.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]
    with Image.open(tmp_path / "new" / "x.png") as small:
        assert len(small.getcolors()) <= 256
        seen = np.asarray(small.convert("RGB"), dtype=float)
    figure.savefig(tmp_path / "full.png", dpi=figures.DPI, bbox_inches="tight", facecolor="white")
    with Image.open(tmp_path / "full.png") as full:
        gap = np.abs(seen - np.asarray(full.convert("RGB"), dtype=float))
    assert gap.mean() < 2, "of 255"


@pytest.mark.parametrize("name", ["layout", "traces"])
def test_committed_pictures_are_small_and_readable(name: str) -> None:
    path = FOLDER / f"{name}.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        assert 800 <= picture.width <= 1400
