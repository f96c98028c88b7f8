"""The benchmark that puts the model, its ablations and the rivals into one table."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from spatial_ipa.data.slide import Slide


@pytest.fixture(scope="module")
def table(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/table")


def test_no_fold_scores_what_it_trains_on(table: ModuleType) -> None:
    for folds in table.SPLITS.values():
        assert folds
        for fold in folds:
            assert fold.train
            assert fold.test
            assert not set(fold.train) & set(fold.test)


@pytest.mark.parametrize("n", [200, 900])
def test_candidate_recall_of_the_coordinates_and_of_noise(table: ModuleType, n: int) -> None:
    rng = np.random.default_rng(0)
    xy = rng.random((n, 2)).astype(np.float32)
    *_, at_k = table.candidate_recall(xy, xy)
    assert at_k == pytest.approx(1.0, abs=1e-6)
    # Subsets of 384 when there are more: the chance is that of the subset, not of the slide.
    found = table.candidate_recall(rng.standard_normal((n, 8)), xy)
    chance = [c / (min(n, 384) - 1) for c in table.RECALL_AT]
    np.testing.assert_allclose(found[:-1], chance, atol=0.03)


def test_the_common_frame_alone_is_scored_on_the_held_out_slide(table: ModuleType) -> None:
    """Embeddings that are the position and noise: regression finds it in slides of any pose."""
    rng = np.random.default_rng(0)
    slides, h = [], []
    for i in range(3):
        xy = rng.random((120, 2)) * [2.0, 1.0]
        h.append(np.hstack([xy, 0.1 * rng.standard_normal((120, 2))]).astype(np.float32))
        slide = Slide.build(f"s{i}", np.ones((120, 2)), ["a", "b"], xy.astype(np.float32))
        slides.append(table.turned(slide, 0, i))
    runner = table.Runner.__new__(table.Runner)
    runner.train, runner.test, runner.seed, runner._scorers = slides[:2], slides[2:], 0, {}
    runner.embeddings = lambda features: h
    (row,) = runner.regression()
    assert (row["slide"], row["method"]) == ("s2", "common frame alone")
    assert row["spearman"] > 0.95


def test_only_rivals_that_are_missing_are_run(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job holds several of them; that some are there must not hide that others are not."""
    asked: list[list[str]] = []

    class Fake:
        def __init__(self, args: Namespace, fold: object, seed: int) -> None:
            self.fold, self.seed = fold, seed

        def rivals(self, names: list[str], outline: bool) -> list[dict[str, object]]:
            asked.append(names)
            scores = dict.fromkeys([*table.COLUMNS, "train_s"], 0.0)
            return [{"slide": "BZ9", "method": n, "inference": "", **scores} for n in names]

    monkeypatch.setattr(table, "Runner", Fake)
    args = Namespace(
        splits=["starmap"], folds=None, seeds=[0], conditions=["rivals"], rivals=["knn", "ridge"],
        out=str(tmp_path), tag="t", rotate=False, shard="0/1", threads=torch.get_num_threads(),
    )  # fmt: skip
    table.run(args)
    args.rivals = ["knn", "spectral", "ridge"]
    table.run(args)
    table.run(args)
    assert asked == [["knn", "ridge"], ["spectral"]]
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["knn", "ridge", "spectral"]


def test_a_seed_without_every_slide_is_left_out(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"split": "dlpfc", "fold": "f", "condition": "gate k=100", "tag": "t", "rotate": False}
    rows = [
        {**common, "method": "gate k=100", "inference": "whole", "slide": slide, "seed": seed}
        | dict.fromkeys(table.COLUMNS, value)
        for slide, seed, value in (
            ("a", 0, 1.0),
            ("b", 0, 3.0),
            ("a", 1, 4.0),
            ("b", 1, 4.0),
            ("a", 2, 9.0),
        )
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table.report(Namespace(tags=None, tag="t", out=str(tmp_path), rotate=False, splits=["dlpfc"]))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "whole" in line]
    # Means over slides are 2 and 4; seed 2 saw one slide of two.
    assert line.startswith("| gate k=100, whole | 2 | 2 | 3.000 ± 1.414 |")


def test_patients_of_one_dataset_are_also_taken_together(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"fold": "f", "tag": "t", "rotate": False, "inference": "", "seed": 0}
    rows = [
        {**common, "split": split, "slide": slide, "method": method, "condition": method}
        | dict.fromkeys(table.COLUMNS, value)
        for split, slide, method, value in (
            ("her2st_A", "A1", "knn", 1.0),
            ("her2st_A", "A2", "knn", 2.0),
            ("her2st_B", "B1", "knn", 6.0),
            ("her2st_A", "A1", "svr", 5.0),
            ("her2st_A", "A2", "svr", 5.0),
            ("her2st_B", "B1", "ridge", 5.0),
            ("dlpfc", "151673", "knn", 7.0),
        )
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    splits = ["her2st_A", "her2st_B", "dlpfc"]
    table.report(Namespace(tags=None, tag="t", out=str(tmp_path), rotate=False, splits=splits))
    *apart, together = capsys.readouterr().out.split("### ")
    assert [part.split("\n")[0] for part in apart[1:]] == splits
    assert together.startswith("her2st: her2st_A, her2st_B together")
    # The mean over slides, not over patients; SVR and ridge have not placed every slide.
    assert "| knn | 3 | 1 | 3.000 |" in together
    assert "svr" not in together
    assert "ridge" not in together


def test_rows_from_before_a_score_are_reported_without_it(
    table: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"slide": "s0", "method": "m", "inference": "", "seed": 0}
    old = row | dict.fromkeys(list(table.COLUMNS)[:-1], 0.5)
    table._print_table("split", table._by_method([old]))
    *_, line = capsys.readouterr().out.splitlines()
    assert line == f"| m | 1 | 1 | {'0.500 | ' * (len(table.COLUMNS) - 1)}nan |"
