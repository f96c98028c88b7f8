"""`lightning predict` that writes heavy atoms, and what it says where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from heavy_files import SEQUENCE, peptide, save
from protein_runs import Command, structure_file

from protein_cvae.generation import side_chains
from protein_cvae.io import read_structure

pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")


@pytest.mark.parametrize("task", ["generate", "interpolate"])
def test_heavy_atoms_by_command(command: Command, tmp_path: Path, task: str) -> None:
    given = save(peptide(), tmp_path / "given.cif")
    size = {"generate": "count", "interpolate": "steps"}[task]
    path = command(task, "made.cif", input=given, atoms="heavy", **{size: 2})
    side = read_structure(path, side_chains=True).side_chains
    assert side is not None
    assert bool(side.complete(SEQUENCE).all())
    summary = json.loads(Path(f"{path}.json").read_text())
    assert summary["options"]["atoms"] == summary["atoms"]["written"] == "heavy"
    assert summary["atoms"]["clashes_per_1000"] >= 0
    models = [note["model"] for note in summary["atoms"]["notes"]]
    assert models == [1, 2]


def test_a_line_says_why_side_chains_are_left_out(
    command: Command,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side_chains, "packer_installed", lambda: False)
    for task in ("generate", "interpolate"):
        path = command(task, f"{task}.pdb", input=structure_file(trained))
        assert "; side chains left out: the input has no side chains" in capsys.readouterr().out
        atoms = json.loads(Path(f"{path}.json").read_text())["atoms"]
        assert atoms["written"] == "backbone"
        assert [note["kind"] for note in atoms["notes"]] == ["side chains left out"]
