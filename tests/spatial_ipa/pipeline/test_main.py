"""What the whole job refuses before it trains anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pytest
from slide_files import make

from spatial_ipa.pipeline.__main__ import run


@pytest.mark.parametrize("role", ["holdout", "scrna"])
def test_what_is_placed_must_be_a_file_that_can_be_copied(
    role: str, tmp_path: Path, toy_format: Callable[[ad.AnnData, Path], Path]
) -> None:
    """Slides that only train may be of any format."""
    paths = {}
    for seed, name in enumerate(("train", "validation")):
        paths[name] = str(toy_format(make(seed), tmp_path / f"{name}.toy"))
    for seed, name in enumerate(("holdout", "scrna"), 2):
        toy = toy_format(make(seed), tmp_path / f"{name}.toy")
        paths[name] = str(toy if name == role else tmp_path / f"{name}.h5ad")
        make(seed).write_h5ad(tmp_path / f"{name}.h5ad")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=rf"{role}\.toy: .* a copy .* must be an \.h5ad"):
        run(
            [paths["train"]],
            [paths["holdout"]],
            [paths["validation"]],
            [paths["scrna"]],
            out=str(out),
        )
    assert not list(out.iterdir())
