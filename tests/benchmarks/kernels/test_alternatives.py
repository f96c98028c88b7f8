"""The comparison with the alternatives: every way is a row, and one that cannot run says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_small_sizes(tmp_path: Path) -> None:
    """Each is checked against the plain form before it is timed; 5 MB let the first size pass."""
    script = str(ROOT / "benchmarks" / "kernels" / "alternatives.py")
    options = ["--sizes", "100", "225", "--degree", "8", "--rounds", "1", "--threads", "1"]
    flags = ["--memory-gb", "0.005", "--skip", "FlexAttention, block mask", "torch.nested SDPA"]
    command = [sys.executable, script, *options, *flags, "--clock", "processor"]
    for _ in range(2):  # the second has nothing left to measure
        subprocess.run(
            [*command, "--resume", "--out", str(tmp_path)],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
    rows = json.loads((tmp_path / "alternatives.json").read_text())["rows"]
    by_size = {nodes: [r for r in rows if r["nodes"] == nodes] for nodes in (100, 225)}
    assert [len(each) for each in by_size.values()] == [22, 22]
    for row in rows:
        assert row["edges"] == 8 * row["nodes"]
        assert (row["fastest_ms"] is None) == bool(row["why"]), row
    assert not [r["way"] for r in by_size[100] if r["way"].startswith("edgewise, P") and r["why"]]
    padded = [r["why"] for r in by_size[225] if r["way"] == "padded SDPA"]
    assert all(why.startswith("needs about") for why in padded)
    assert [r for r in by_size[100] if r["way"] == "padded SDPA" and not r["why"]]
    tables = (tmp_path / "alternatives.md").read_text()
    assert "| edgewise, PyTorch only |" in tables
    assert "needs about" in tables
    assert (tmp_path / "alternatives.png").stat().st_size > 0
