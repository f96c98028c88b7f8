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

from spatial_ipa.data.simulation.files import TissuePaths, TissueSpec, write_tissue


@pytest.fixture(scope="module")
def table(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/table")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> TissuePaths:
    spec = TissueSpec(num_slides=3, spots_per_slide=110, num_genes=120, num_cells=20)
    return write_tissue(spec, tmp_path_factory.mktemp("tissue") / "tissue")


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
        command="run", splits=["starmap"], slides=None, folds=None, seeds=[0],
        conditions=["rivals"], rivals=["knn", "ridge"],
        out=str(tmp_path), tag="t", rotate=False, shard="0/1", threads=torch.get_num_threads(),
    )  # fmt: skip
    table.run(args)
    args.rivals = ["knn", "spectral", "ridge"]
    table.run(args)
    table.run(args)
    assert asked == [["knn", "ridge"], ["spectral"]]
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["knn", "ridge", "spectral"]


SMALL = (
    "--seeds", "0", "--epochs", "7", "--encoder-epochs", "1", "--per-epoch", "4",
    "--batch-size", "2", "--size-max", "96", "--num-draws", "2",
)  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_own_slides_from_file_to_table(
    table: ModuleType, tissue: TissuePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *train, test = map(str, tissue.slides)
    own = ["--slides", f"train={','.join(train)}", f"test={test}", "--out", str(tmp_path)]
    conditions = ["--conditions", "common frame alone", "untrained", "gate k=60", "rivals"]
    table.main(["run", *own, *conditions, *SMALL, "--rivals", "knn", "ridge"])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"own"}
    assert {row["slide"] for row in rows} == {"slide_2"}
    methods = {"common frame alone", "untrained", "gate k=60", "knn", "ridge"}
    assert {row["method"] for row in rows} == methods
    assert all(np.isfinite(row[column]) for row in rows for column in table.COLUMNS)
    capsys.readouterr()
    table.main(["report", *own])
    out = capsys.readouterr().out
    assert all(f"| {method}" in out for method in methods)
    # Other slides have results of their own in the same folder.
    table.main(["report", "--slides", f"each={','.join(train)}", "--out", str(tmp_path)])
    assert "slide_2" not in capsys.readouterr().out


def test_options_are_run_when_asked_for(table: ModuleType) -> None:
    """By the name of the group, each once; the usual rows do not hold them."""
    found = table.chosen_conditions(["untrained", "options", "option: base"])
    assert found == ["untrained", *table.OPTIONS]
    assert table.chosen_conditions(["gate k=80"]) == ["gate k=80"]


def test_a_report_without_the_trivial_rows_fails_after_its_tables(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "split": "starmap", "fold": "BZ9", "condition": "rivals", "seed": 0, "tag": "laptop",
        "rotate": False, "method": "knn", "inference": "", "slide": "BZ9",
        **dict.fromkeys(table.COLUMNS, 0.5),
    }  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match="starmap lacks common frame alone, untrained"):
        table.main(["report", "--out", str(tmp_path)])
    assert "| knn | 1 | 1 | 0.500 |" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "recall"])
@pytest.mark.parametrize("splits", [["her2st_B"], ["choosing", "shifts"], ["confirmation"]])
def test_splits_without_choices_want_to_be_asked_for(
    table: ModuleType, command: str, splits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        table.main([command, "--data", "nowhere", "--splits", *splits])
    assert "--final runs them, once" in capsys.readouterr().err


def test_splits_are_described(
    table: ModuleType, tissue: TissuePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ",".join(map(str, tissue.slides))
    table.main(["splits", "--slides", f"each={paths}"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("| group | split | fold | spots, trained on | spots, scored | genes |")
    assert len(lines) == 3
    assert all("| 110, 110 | 110 | 120 |" in line for line in lines)
    assert len({line.split("|")[-2] for line in lines}) == 3


def test_one_of_data_and_slides_is_needed(
    table: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        table.main(["run"])
    assert "run needs --data, or --slides" in capsys.readouterr().err
