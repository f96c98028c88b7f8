"""The benchmark of a training step runs with the default network, and leaves its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from common.sparse.extension import extension_loaded
from spatial_ipa.data.simulation.files import TissueSpec, write_tissue


def test_small_slides(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = TissueSpec(num_slides=2, spots_per_slide=150, num_genes=150, num_cells=80)
    tissue = write_tissue(spec, tmp_path / "tissue")
    slides = ["--slides", *map(str, tissue.slides)]
    sizes = ["--batch-size", "2", "--size-max", "96", "--candidates", "20", "--rows", "8"]
    step = load_benchmark("kernels/training_step")
    step.main([*slides, *sizes, "--steps", "2", "--threads", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "training_step.json").read_text())
    backends = {"reference", "torch", *(("cpp",) if extension_loaded() else ())}
    assert set(found["backends"]) == backends
    assert all(row["step_ms"] > 0 for row in found["backends"].values())
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert "ms a step" in capsys.readouterr().out
