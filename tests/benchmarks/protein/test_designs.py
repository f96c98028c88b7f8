"""The benchmark of the sequence designs: resuming, one line per run, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

IGNORED = ("seconds",)
CHOSEN = ("shared", "separate")


@pytest.fixture(scope="module")
def designs(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/designs")


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "results.jsonl").read_text()
    return [{k: v for k, v in json.loads(x).items() if k not in IGNORED} for x in text.splitlines()]


@pytest.fixture(scope="module")
def results(designs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two designs of one seed, uninterrupted."""
    out = tmp_path_factory.mktemp("designs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(designs, "EPOCHS", 3)
        designs.main(
            ["run", "--steps", "3", "--out", str(out), "--seeds", "0", "--designs", *CHOSEN]
        )
    return out


def test_a_line_per_design_with_both_groups_and_the_curve(designs: ModuleType, results: Path):
    rows = lines(results)
    assert [(row["design"], row["seed"]) for row in rows] == [("shared", 0), ("separate", 0)]
    for row in rows:
        assert [step for step, _ in row["curve"]] == [1, 2, 3]
        assert (row["known"]["proteins"], row["unseen"]["proteins"]) == (3, 1)
        for group in ("known", "unseen"):
            assert set(designs.MEASURES) < set(row[group])
    # The baseline belongs to the data, not to the model.
    assert rows[0]["known"]["commonest"] == rows[1]["known"]["commonest"] > 0
    assert rows[0]["known"]["rmsd"] != rows[1]["known"]["rmsd"]
    assert not [path for path in results.iterdir() if path.is_dir()]


def test_a_killed_training_goes_on_and_ends_with_the_same_scores(
    designs: ModuleType, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(designs, "EPOCHS", 3)
    ordinary = designs.LearningCurve.on_train_epoch_start
    command = ["run", "--steps", "3", "--out", str(tmp_path), "--seeds", "0", "--designs", "shared"]

    def killed(self: object, trainer: object, pl_module: object) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")

    monkeypatch.setattr(designs.LearningCurve, "on_train_epoch_start", killed)
    with pytest.raises(RuntimeError, match="killed"):
        designs.main(command)
    assert not (tmp_path / "results.jsonl").exists()
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    seen = []

    def counted(self: object, trainer: object, pl_module: object) -> None:
        seen.append(trainer.current_epoch)

    monkeypatch.setattr(designs.LearningCurve, "on_train_epoch_start", counted)
    designs.main(command)
    assert seen == [2]
    assert not checkpoint.exists()
    assert lines(tmp_path) == lines(results)[:1]
    # What is there is not done again.
    monkeypatch.setattr(designs.LearningCurve, "on_train_epoch_start", ordinary)
    before = (tmp_path / "results.jsonl").read_text()
    designs.main(command)
    assert (tmp_path / "results.jsonl").read_text() == before


def test_report_gives_mean_and_deviation_over_seeds(
    designs: ModuleType, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    other = json.loads(json.dumps(rows[0]))
    other["seed"], other["known"]["recovery"] = 1, 0.5
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, other]))
    written = tmp_path / "report.md"
    designs.main(["report", "--out", str(tmp_path), "--report", str(written)])
    text = written.read_text()
    assert text.strip() in capsys.readouterr().out
    values = [rows[0]["known"]["recovery"], 0.5]
    wanted = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    shared = next(line for line in text.splitlines() if line.startswith("| shared | 2 |"))
    column = list(designs.MEASURES).index("recovery")
    assert [cell.strip() for cell in shared.split("|")][3 + column] == wanted
    assert "| separate | 1 |" in text

    path.write_text(path.read_text() + json.dumps({**other, "steps": 9}) + "\n")
    with pytest.raises(SystemExit, match="several experiments"):
        designs.main(["report", "--out", str(tmp_path)])


def test_bad_options_are_refused(designs: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit):
        designs.main(["run", "--steps", "2"])
    with pytest.raises(ValueError, match="nmr/"):
        designs.main(["run", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
