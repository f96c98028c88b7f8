"""Ends and templates that lack a residue, reports of reading, and what fails before the work."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from protein_runs import Command, structure_file

import common.prediction
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands import generate as generate_command
from protein_cvae.generation.commands.interpolate import InterpolateDataModule, PathEnds
from protein_cvae.generation.inputs import ReadingOptions
from protein_cvae.io import read_structure, write_ensemble

# The checkpoint brings its sizes in place of the defaults.
pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")


def shortened(path: Path, protein: Ensemble) -> Path:
    """A file without the first residue, numbered anew from 1."""
    keep = torch.ones(protein.length, dtype=torch.bool)
    keep[0] = False
    write_ensemble(path, protein.select_residues(keep))
    return path


def test_a_path_between_files_of_which_one_lacks_a_residue(
    tmp_path: Path, protein: Ensemble
) -> None:
    """volkamerlab/opencadd#17."""
    write_ensemble(tmp_path / "first.pdb", protein)
    second = shortened(tmp_path / "second.pdb", protein)
    given = str(tmp_path / "first.pdb"), str(tmp_path / "path.pdb"), PathEnds(str(second))
    with pytest.raises(ValueError, match=r"only one has A \w+ 1 of .*first\.pdb; set incomplete"):
        InterpolateDataModule(*given).read()
    reading = ReadingOptions(incomplete="drop")
    request = InterpolateDataModule(*given, reading=reading).read()
    assert request.first.sequence == request.second.sequence == protein.sequence[1:]
    assert request.left_out == f"{protein.label(0)} of {tmp_path / 'first.pdb'}"


def test_a_path_whose_ends_come_from_conformers_of_which_one_is_mutated(
    tmp_path: Path, protein: Ensemble
) -> None:
    letter = "W" if protein.sequence[4] != "W" else "A"
    mutant = replace(protein, sequence=protein.sequence[:4] + letter + protein.sequence[5:])
    (tmp_path / "x").mkdir()
    for m, given in enumerate((protein, protein, mutant)):
        write_ensemble(tmp_path / "x" / f"c{m}.pdb", given.select_models([m]))
    given = str(tmp_path / "x"), str(tmp_path / "path.pdb")
    with pytest.raises(ValueError, match="set incomplete: drop to go on"):
        InterpolateDataModule(*given).read()
    reading = ReadingOptions(incomplete="drop")
    request = InterpolateDataModule(*given, reading=reading).read()
    assert request.first.sequence == request.second.sequence
    assert request.second.length == protein.length - 1
    assert protein.label(4) in request.left_out
    # Ends without it need not leave it out.
    ends = PathEnds(first_model=1, second_model=2)
    whole = InterpolateDataModule(*given, ends, reading=reading).read()
    assert (whole.first.length, whole.left_out) == (protein.length, "")


def test_latents_relative_to_a_file_that_lacks_a_residue(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    given = structure_file(trained)
    protein = read_structure(given)
    other = shortened(tmp_path / "other.pdb", protein)
    path = command("encode", "z.npz", input=given, template=other, incomplete="drop")
    with np.load(path) as stored:
        assert stored["residues"].tolist()[0] == protein.label(1)
        assert stored["model_numbers"].tolist() == list(protein.model_numbers)
    found = json.loads(Path(f"{path}.json").read_text())["input"]
    assert found["template_file"] == "other.pdb"
    assert protein.label(0) in found["left_out"]


def test_what_reading_did_is_in_the_json_and_told(
    command: Command, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = tmp_path / "given.pdb"
    water = "HETATM 9999  O   HOH W****      20.000   1.000   1.000  1.00  0.00           O\n"
    text = structure_file(trained).read_text()
    given.write_text(text.replace("ENDMDL\n", water + "ENDMDL\n"))
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        path = command("generate", "made.pdb", input=given, count=1)
    notes = json.loads(Path(f"{path}.json").read_text())["input"]["reading"]
    assert notes == [{"kind": "dropped", "model": None, "residue": "HOH", "detail": "water"}]
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("read given: ") and "dropped HOH" in line for line in lines)


def test_versions_are_looked_up_before_conformers_are_made(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    def made(*given: object) -> None:
        raise AssertionError("conformers were made first")

    monkeypatch.setattr(common.prediction, "version", absent)
    monkeypatch.setattr(generate_command, "generate_prepared", made)
    with pytest.raises(PackageNotFoundError):
        command("generate", "made.pdb", input=structure_file(trained), count=1)
