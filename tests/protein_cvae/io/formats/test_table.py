"""A format is a file of the folder and a row of the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from protein_files import pdb, peptide
from torch import Tensor

from protein_cvae.ensemble import Ensemble
from protein_cvae.io import read_structure, write_ensemble
from protein_cvae.io.formats import pdb as pdb_format
from protein_cvae.io.formats import table
from protein_cvae.io.formats.rows import FurtherAtoms
from protein_cvae.io.formats.table import StructureFormat, structure_format


def test_suffixes_say_which_format() -> None:
    found = {path: structure_format(Path(path)) for path in ("a.pdb", "a.ENT.gz", "a.cif.gz")}
    assert found["a.pdb"] is found["a.ENT.gz"] is table.FORMATS[0]
    assert found["a.cif.gz"] is table.FORMATS[1]
    assert len(set(table.SUFFIXES)) == len(table.SUFFIXES)
    with pytest.raises(ValueError, match=r"a\.xyz: suffix '\.xyz' is not known; expected one of"):
        structure_format(Path("a.xyz"))


def test_a_new_row_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(ensemble: Ensemble, b_factor: Tensor, further: FurtherAtoms) -> Iterator[str]:
        yield from pdb_format.lines(ensemble, b_factor, further)

    row = StructureFormat((".mine",), pdb_format.parse, lines)
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, row))
    (tmp_path / "x.mine").write_text(pdb(peptide()))
    ensemble = read_structure(tmp_path / "x.mine")
    assert ensemble.sequence == "AGS"
    write_ensemble(tmp_path / "y.mine", ensemble)
    assert read_structure(tmp_path / "y.mine").sequence == "AGS"
