"""The tables made of the file of results: what is averaged, and what must not be missing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def results(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/results")


def row(results: ModuleType, value: float, **given: Any) -> dict[str, Any]:
    """One line of results, every score of which is ``value``."""
    common = {"fold": "f", "tag": "t", "rotate": False, "inference": "", "seed": 0}
    given = {"method": "knn", **given}
    return {
        **common,
        "condition": given["method"],
        **dict.fromkeys(results.COLUMNS, value),
        **given,
    }


def test_a_seed_without_every_slide_is_left_out(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = (("a", 0, 1.0), ("b", 0, 3.0), ("a", 1, 4.0), ("b", 1, 4.0), ("a", 2, 9.0))
    rows = [
        row(results, value, split="dlpfc", method="gate k=100", inference="whole", slide=s, seed=i)
        for s, i, value in seen
    ]
    results.report(rows, ["t"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "whole" in line]
    # Means over slides are 2 and 4; seed 2 saw one slide of two.
    assert line.startswith("| gate k=100, whole | 2 | 2 | 3.000 ± 1.414 |")


def test_patients_that_confirm_are_also_taken_together(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those on which choices were made are not among them."""
    rows = [
        row(results, value, split=split, slide=slide, method=method)
        for split, slide, method, value in (
            ("her2st_A", "A1", "knn", 9.0),
            ("her2st_C", "C1", "knn", 1.0),
            ("her2st_C", "C2", "knn", 2.0),
            ("her2st_B", "B1", "knn", 6.0),
            ("her2st_C", "C1", "svr", 5.0),
            ("her2st_C", "C2", "svr", 5.0),
            ("her2st_B", "B1", "ridge", 5.0),
            ("dlpfc", "151673", "knn", 7.0),
        )
    ]
    results.report(rows, ["t"])
    *apart, together = capsys.readouterr().out.split("### ")
    assert [part.split("\n")[0] for part in apart[1:]] == [
        "her2st_A", "her2st_C", "her2st_B", "dlpfc",
    ]  # fmt: skip
    assert together.startswith("her2st B to F together")
    # The mean over slides, not over patients; SVR and ridge have not placed every slide.
    assert "| knn | 3 | 1 | 3.000 |" in together
    assert "svr" not in together
    assert "ridge" not in together


def test_rows_from_before_a_score_are_reported_without_it(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    old = row(results, 0.5, split="dlpfc", slide="s0")
    del old[list(results.COLUMNS)[-1]]
    results.report([old], ["t"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| knn")]
    assert line == f"| knn | 1 | 1 | {'0.500 | ' * (len(results.COLUMNS) - 1)}nan |"


def test_columns_that_are_asked_for(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(results, 0.5, split="dlpfc", slide="s0", nearest_cv=0.25, **{"gate, all": 0.75})]
    results.report(rows, ["t"], ["rmse_of_nobody", "nearest_cv", "gate, all"])
    out = capsys.readouterr().out
    assert "| method | slides | seeds | rmse_of_nobody | nearest CV | gate, all |" in out
    assert "| knn | 1 | 1 | nan | 0.250 | 0.750 |" in out


def test_trivial_rows_that_are_missing_are_named(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, untrained = results.TRIVIAL
    both = [row(results, 1.0, split="a", slide=s, method="knn") for s in ("s0", "s1")]
    assert results.report(both, ["t"]) == [f"a lacks {frame}, {untrained}"]
    assert f"Missing, so that nobody sees what learning brings: {frame}" in capsys.readouterr().out
    both += [row(results, 1.0, split="a", slide=s, method=frame) for s in ("s0", "s1")]
    both += [row(results, 1.0, split="a", slide="s1", method=untrained)]
    assert results.report(both, ["t"]) == [f"a lacks {untrained} (s0)"]
    both += [row(results, 1.0, split="a", slide="s0", method=untrained)]
    capsys.readouterr()
    assert results.report(both, ["t"]) == []
    assert "Missing" not in capsys.readouterr().out


def test_failures_are_told_with_their_reason_until_they_are_mended(
    results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    luna = {"split": "starmap", "method": "LUNA", "slide": "BZ9"}
    failed = row(results, 0.0, **luna, inference="failed") | {"failed": "LUNA: out of memory"}
    for column in results.COLUMNS:
        del failed[column]
    stem = row(results, 1.0, split="starmap", method="STEM", slide="BZ9")
    results.report([failed, stem], ["t"])
    out = capsys.readouterr().out
    assert "| LUNA, failed | 1 | 1 | nan |" in out
    assert "Failed on BZ9: LUNA: out of memory" in out
    results.report([failed, stem, row(results, 2.0, **luna)], ["t"])
    out = capsys.readouterr().out
    assert "| LUNA | 1 | 1 | 2.000 |" in out
    assert "failed" not in out.lower()
