"""What the user tells of the spread: where it is read from, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from protein_runs import made_of

from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.generate import GenerateOptions, check_generation
from protein_cvae.generation.spread import SpreadOptions, column_rmsf, told_spread
from protein_cvae.io import read_structure, write_ensemble


@pytest.mark.parametrize("suffix", ["pdb", "cif", "pdb.gz"])
@pytest.mark.parametrize("column", ["b_factor", "rmsf", "plddt"])
def test_columns_of_the_input(protein: Ensemble, tmp_path: Path, suffix: str, column: str) -> None:
    values = torch.linspace(20, 95, protein.length)
    path = tmp_path / f"given.{suffix}"
    write_ensemble(path, protein, b_factor=values)
    told = told_spread(read_structure(path), SpreadOptions(column=column))  # type: ignore[arg-type]
    expected = {
        "b_factor": [math.sqrt(3 * b / (8 * math.pi**2)) for b in values.tolist()],
        "rmsf": values.tolist(),
        "plddt": [1.5 * math.exp(4 * (0.7 - p / 100)) for p in values.tolist()],
    }[column]
    assert told.rmsf is not None
    assert torch.allclose(told.rmsf, torch.tensor(expected), rtol=2e-3)
    assert told.rmsd is None


def test_the_column_is_that_of_the_model_and_of_the_chains_taken(
    protein: Ensemble, tmp_path: Path
) -> None:
    values = 1 + torch.arange(6)[:, None] + torch.arange(protein.length) / 100
    path = tmp_path / "given.pdb"
    write_ensemble(path, protein, b_factor=values)
    part = read_structure(path).select_residues(torch.arange(protein.length) >= 5)
    for model, row in ((None, 0), (4, 3)):
        told = told_spread(part, SpreadOptions(column="rmsf"), model)
        assert told.rmsf is not None
        assert torch.allclose(told.rmsf, values[row, 5:], atol=6e-3)


def test_plddt_from_0_to_1_is_taken_as_such(protein: Ensemble) -> None:
    share = torch.linspace(0.3, 0.99, protein.length)
    low = column_rmsf(share, "plddt", protein)
    assert torch.allclose(low, column_rmsf(100 * share, "plddt", protein))


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_file_in_any_order_with_insertion_codes_and_more_columns(
    protein: Ensemble, tmp_path: Path, suffix: str, mark: str
) -> None:
    codes = ("",) * 3 + ("A",) + ("",) * (protein.length - 4)
    numbers = protein.residue_numbers.clone()
    numbers[3:] -= 1
    numbers -= 10
    given = made_of(protein, residue_numbers=numbers, insertion_codes=codes)
    values = [0.5 + 0.1 * i for i in range(protein.length)]
    rows = [
        mark.join([f"{value:.3f}", " A ", "note", f"{int(number)}{code}"])
        for value, number, code in zip(values, numbers, codes, strict=True)
    ]
    path = tmp_path / f"rmsf{suffix}"
    path.write_text("\n".join([mark.join(["RMSF", "chain", "x", "residue"]), "", *rows[::-1], ""]))
    told = told_spread(given, SpreadOptions(file=str(path), superposed="all"))
    assert told.rmsf is not None
    assert torch.allclose(told.rmsf, torch.tensor(values))
    assert bool(told.superposed.all())


HEAD = "chain,residue,rmsf\n"
GOOD = "".join(f"A,{i},1.0\n" for i in range(1, 27))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + GOOD.replace("A,3,1.0\n", ""), "no value for 1 residues: A [A-Z]{3} 3"),
        (HEAD + GOOD + "A,27,1.0\n", "has no residue A 27 among those taken .chain A"),
        (HEAD + GOOD + "B,1,1.0\n", "has no residue B 1 among"),
        (HEAD + GOOD + "A,1,1.0\n", "line 28: residue A 1 stands twice"),
        (HEAD + GOOD.replace("A,4,1.0", "A,4,nan"), "line 5, residue A 4: rmsf must be a finite"),
        (HEAD + GOOD.replace("A,4,1.0", "A,4,-1"), "rmsf must be a finite number, 0 or more, got"),
        (HEAD + GOOD.replace("A,4,1.0", "A,4,x"), "got 'x'"),
        (HEAD + GOOD.replace("A,4,1.0", "A,4A7,1"), "line 5: residue must be a number"),
        (HEAD + GOOD.replace("A,4,1.0", "A,4"), "line 5: expected 3 values, got 2"),
        ("chain,number,rmsf\n" + GOOD, "must name the columns chain, residue, rmsf once each"),
        ("", "got nothing"),
    ],
)
def test_files_that_are_refused(protein: Ensemble, tmp_path: Path, text: str, message: str) -> None:
    assert protein.residue_numbers.tolist() == list(range(1, 27))
    path = tmp_path / "rmsf.csv"
    path.write_text(text)
    options = GenerateOptions("prior", spread=SpreadOptions(file=str(path)))
    with pytest.raises(ValueError, match=message):
        check_generation(protein, options)


def test_files_that_are_no_tables(protein: Ensemble, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"spread\.file: no such file"):
        told_spread(protein, SpreadOptions(file=str(tmp_path / "no.csv")))
    with pytest.raises(ValueError, match=r"a file called \.csv or \.tsv"):
        told_spread(protein, SpreadOptions(file=str(tmp_path / "rmsf.txt")))
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        told_spread(protein, SpreadOptions(file=str(tmp_path / "x.csv")))


def test_columns_that_are_refused(protein: Ensemble, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs one PDB or mmCIF file.*spread\.file"):
        told_spread(protein, SpreadOptions(column="rmsf"))
    path = tmp_path / "zero.pdb"
    write_ensemble(path, protein)
    with pytest.raises(ValueError, match="is 0 everywhere"):
        told_spread(read_structure(path), SpreadOptions(column="b_factor"))
    values = torch.full((protein.length,), 30.0)
    values[2] = 101.0
    with pytest.raises(ValueError, match=r"residue A [A-Z]{3} 3 has 101, expected 0 to 100"):
        column_rmsf(values, "plddt", protein)
    values[2] = -0.5
    with pytest.raises(ValueError, match=r"has -0\.5, expected 0 or more"):
        column_rmsf(values, "b_factor", protein)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tell one of rmsd, column and file, got none"),
        ({"rmsd": 1.0, "file": "x.csv"}, "got rmsd and file"),
        ({"rmsd": 0.0}, "rmsd must be finite and positive"),
        ({"rmsd": math.inf}, "rmsd must be finite and positive"),
        ({"column": "b"}, "column must be one of b_factor, rmsf, plddt, got 'b'"),
        ({"rmsd": 1.0, "superposed": "some"}, "superposed must be core or all, got 'some'"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpreadOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["resample", "around", "sequence"])
def test_other_modes_are_refused_by_name(mode: str) -> None:
    with pytest.raises(ValueError, match=f"spread: mode {mode} takes its spread from what was"):
        GenerateOptions(mode, spread=SpreadOptions(rmsd=1.0))  # type: ignore[arg-type]
