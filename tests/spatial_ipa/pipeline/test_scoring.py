"""Tables of scores."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from spatial_ipa.evaluation.scorer import COLUMNS
from spatial_ipa.pipeline.scoring import Scoring


def test_scores_are_kept_as_markdown_csv_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"slide": "s0", "method": "svr", **dict.fromkeys(COLUMNS, 0.25), "other": 1.0},
        {"slide": "s0", "method": "mean", **dict.fromkeys(COLUMNS, float("nan")), "other": 2.0},
    ]
    Scoring(Mock(), tmp_path, num_draws=2, max_scored=100, seed=0, rows=rows).write_table()
    lines = [
        f"| slide | method | {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' --- |' * len(COLUMNS)}",
        f"| s0 | svr |{' 0.250 |' * len(COLUMNS)}",
        f"| s0 | mean |{' nan |' * len(COLUMNS)}",
    ]
    text = "\n".join(lines) + "\n"
    assert (tmp_path / "scores.md").read_text() == text
    assert capsys.readouterr().out == text
    assert (tmp_path / "scores.json").read_text() == json.dumps(rows, indent=1)
    head, *csv = (tmp_path / "scores.csv").read_text().splitlines()
    assert head == ",".join(rows[0])
    assert len(csv) == 2
