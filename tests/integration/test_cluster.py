"""Faults of a cluster: two processes under SLURM's variables, by the script that makes the table.

What meets the fit comes in the middle of its second epoch; the same command then goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from lightning_runs import ROOT

KILL, REQUEUE, CANCEL = (
    "kill -9 of the last process",
    "SIGUSR1 at other moments of each",
    "SIGTERM at other moments of each",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of three faults, by name."""
    out = tmp_path_factory.mktemp("cluster")
    subprocess.run(
        [
            sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "cluster_matrix.py"),
            "--out", str(out), "--models", "protein_cvae", "--ranks", "2",
            "--cases", KILL, REQUEUE, CANCEL,
        ],
        cwd=out, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=600,
    )  # fmt: skip
    found = [json.loads(line) for line in (out / "faults.jsonl").read_text().splitlines()]
    return {row["case"]: row for row in found}


@pytest.mark.parametrize("case", [KILL, REQUEUE, CANCEL])
def test_the_same_command_goes_on_with_the_same_numbers(
    case: str, rows: dict[str, dict[str, Any]]
) -> None:
    """In one log folder; weights and every logged loss are those of a fit that nothing met."""
    assert rows[case]["weights"] == 0
    assert rows[case]["log"] is True
    assert rows[case]["folders"] == 1


def test_a_killed_process_ends_the_others(rows: dict[str, dict[str, Any]]) -> None:
    """None waits for it; what was trained since the last checkpoint alone is lost."""
    row = rows[KILL]
    assert row["ended"] == "1 -9"
    assert (row["at"], row["resumed_at"]) == (5, 4)
    assert row["requeued"] == 0


@pytest.mark.parametrize(("case", "requeued"), [(REQUEUE, 1), (CANCEL, 0)])
def test_a_signal_loses_nothing(case: str, requeued: int, rows: dict[str, dict[str, Any]]) -> None:
    """All processes leave the same step, whenever the signal has reached each."""
    row = rows[case]
    assert row["ended"] == "143 143"
    assert row["at"] == row["resumed_at"] > 4
    assert row["requeued"] == requeued
