"""The kernel benchmark runs, agrees with the plain form first, and leaves rows any reader takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_small_sizes(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "kernels" / "cpu.py")
    options = ["--sizes", "60", "--degrees", "12", "--rounds", "1", "--ours", "--no-order"]
    subprocess.run(
        [sys.executable, script, *options, "--threads", "1", "--out", str(tmp_path)],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    content = json.loads(
        (tmp_path / "cpu.json").read_text(), parse_constant=lambda text: pytest.fail(text)
    )
    assert content["machine"]["threads"] == 1
    kinds = {(row["op"], row["mode"]) for row in content["rows"]}
    assert len(kinds) == 4
    for row in content["rows"]:
        assert (row["nodes"], row["edges"]) == (60, 720)
        assert 0 < row["fastest_ms"] <= row["median_ms"]
    assert (tmp_path / "cpu.png").stat().st_size > 0
