"""Who trains for whom, on which slides choices may be made, and the slides of a user."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(os.environ.get("EDGEWISE_DATA", "nowhere")) / "st"


@pytest.fixture(scope="module")
def splits(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/splits")


def test_no_fold_scores_what_it_trains_on(splits: ModuleType) -> None:
    for folds in splits.SPLITS.values():
        assert folds
        for fold in folds:
            assert fold.train
            assert fold.test
            for test in fold.test:
                for train in fold.train:
                    halves = {train.region, test.region} == {"low", "high"}
                    assert train.path != test.path or halves


def test_nothing_that_choices_are_made_on_confirms_them(splits: ModuleType) -> None:
    def scored(names: tuple[str, ...]) -> set[str]:
        return {p.path for n in names for f in splits.SPLITS[n] for p in f.test}

    free = scored(splits.CHOOSING) | scored(splits.TRIALS)
    assert not free & (scored(splits.CONFIRMATION) | scored(splits.SHIFTS))
    assert sorted(n for names in splits.GROUPS.values() for n in names) == sorted(splits.SPLITS)


def test_names_of_folds_are_unique(splits: ModuleType) -> None:
    """Encoders are kept by them."""
    names = [fold.name for folds in splits.SPLITS.values() for fold in folds]
    assert len(set(names)) == len(names)


def test_every_shift_has_a_twin_that_choices_are_made_on(splits: ModuleType) -> None:
    kinds = {name.removeprefix("shift_") for name in splits.SHIFTS}
    assert {name.removeprefix("trial_") for name in splits.TRIALS} == kinds - {"patient"}


def test_the_page_names_every_split(splits: ModuleType) -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    assert set(splits.SPLITS) <= set(re.findall(r"`(\w+)`", page))


def test_groups_stand_for_their_splits(splits: ModuleType) -> None:
    found = splits.split_names(["starmap", "choosing"])
    assert found == ["starmap", *(n for n in splits.CHOOSING if n != "starmap")]
    with pytest.raises(ValueError, match="--splits her2st: neither a group"):
        splits.split_names(["starmap", "her2st"])


@pytest.mark.skipif(not DATA.is_dir(), reason="EDGEWISE_DATA is not set")
def test_slides_of_changed_parts_are_read(splits: ModuleType) -> None:
    (fold,) = [f for f in splits.SPLITS["shift_ambient"] if f.name.endswith("D3")]
    (slide,) = [part.read(DATA) for part in fold.test]
    assert (slide.name, len(slide)) == ("D3 patch mixed 0.2 shuffled", 100)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.h5ad").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.h5ad").touch()
    return tmp_path


def test_own_slides_by_name_and_by_pattern(splits: ModuleType, files: Path) -> None:
    (fold,) = splits.own_split([f"train={files}/[ab].h5ad", f"test={files}/c.h5ad"])
    assert [Path(p.path).name for p in fold.train] == ["a.h5ad", "b.h5ad"]
    assert [Path(p.path).name for p in fold.test] == ["c.h5ad"]
    assert fold.name.startswith("c-")
    (listed,) = splits.own_split([f"train={files}/a.h5ad,{files}/b.h5ad", f"test={files}/c.h5ad"])
    assert listed == fold
    (other,) = splits.own_split([f"train={files}/more/a.h5ad", f"test={files}/c.h5ad"])
    assert other.name != fold.name


def test_each_is_left_out_in_turn(splits: ModuleType, files: Path) -> None:
    folds = splits.own_split([f"each={files}/*.h5ad"])
    assert [[Path(p.path).stem for p in f.test] for f in folds] == [["a"], ["b"], ["c"]]
    assert [[Path(p.path).stem for p in f.train] for f in folds] == [
        ["b", "c"], ["a", "c"], ["a", "b"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a.h5ad"], "got 'a.h5ad'"),
        (["tests=c.h5ad"], "got 'tests=c.h5ad'"),
        (["train=a.h5ad"], "needs train= and test=, or each= alone; got train"),
        (["train=a.h5ad", "test=b.h5ad", "each=c.h5ad"], "got each, test, train"),
        (["train=a.h5ad", "train=b.h5ad"], "has train= twice"),
        (["each=a.h5ad"], "two slides or more, got 1"),
        (["train=a.h5ad,b.h5ad", "test=b.h5ad"], "b.h5ad would be trained on and scored"),
        (["train=a.h5ad", "test=more/a.h5ad"], "several files are called a; rename them"),
        (["train=a.h5ad,", "test=b.h5ad"], "no file ''"),
        (["train=a.h5ad", "test=d*.h5ad"], r"no file 'd\*.h5ad'"),
    ],
)
def test_refusals(
    splits: ModuleType, files: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(ValueError, match=message):
        splits.own_split(given)
