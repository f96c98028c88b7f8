"""The benchmark of one trajectory on a small one.  No time and no memory is asserted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import protein_cvae
from protein_cvae.data.settings import TimeBlocks


@pytest.fixture(scope="module")
def md(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    module = load_benchmark("protein/md")
    tiny = replace(
        module.TRAJECTORY,
        network=protein_cvae.NetworkSettings(
            width=16, layers=1, condition_layers=1, heads=2, feed_forward=16, d_global=8, hidden=8,
            decoder_layers=1, chain_neighbors=4, spatial_neighbors=4,
        ),
        split=protein_cvae.SplitSettings(blocks=TimeBlocks(4)),
        draws=protein_cvae.DrawSettings(batch_proteins=2, per_epoch=2, val_models_per_protein=1),
    )  # fmt: skip
    module.TRAJECTORY = tiny
    return module


@pytest.fixture(scope="module")
def folder(md: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("md") / "run"
    assert md.write_trajectory(folder, 40, 24) > 0
    return folder


def test_each_way_is_measured(
    md: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--cache", str(tmp_path / "kept")]):
        md.main(["once", str(folder), "--draws", "4", "--steps", "1", *more])
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row.keys() >= set(md.STREAM) - {"frames", "residues", "way", "file_mb", "kept_mb"}
        assert 0 < row["before_mb"] <= row["setup_peak_mb"] <= row["draws_peak_mb"]
        assert row["draws_peak_mb"] <= row["peak_mb"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_held_out_blocks_are_scored_by_every_method(
    md: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.jsonl"
    md.main([
        "score", str(folder), "--epochs", "1", "--draws", "2", "--count", "5", "--rates", "0.2",
        "--out", str(out),
    ])  # fmt: skip
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["judged"] for row in rows} == {10}
    of = {kind: [r for r in rows if r["table"] == kind] for kind in ("rates", "nearest", "split")}
    assert {row["method"].split(":")[0] for row in of["rates"]} == {
        "trained", "untrained", "pca of the training frames",
    }  # fmt: skip
    assert len(of["nearest"]) == 7
    assert all(math.isfinite(row["all"]) for kind in of.values() for row in kind if "all" in row)
    by = {row["method"]: row["all"] for row in of["nearest"]}
    assert by["training frames, all"] <= by["training frames, evenly spaced"]
    assert [row["held_out"] for row in of["split"]] == [8, 10]
    capsys.readouterr()
    md.main(["report", str(out)])
    printed = capsys.readouterr().out
    for row in rows:
        assert row["method"] in printed
