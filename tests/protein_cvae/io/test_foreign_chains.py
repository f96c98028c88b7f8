"""Numbers and chains of files
as other programs write them, rebuilt small from public reports; repository#number each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protein_files import (
    FAR,
    atom,
    blank,
    moved,
    pdb,
    peptide,
    residue,
)

from protein_cvae.ensemble import Ensemble

WATER = "HETATM   50  O   HOH B{:>4s}      20.000   1.000   1.000  1.00  0.00           O  "


def counts(ensemble: Ensemble) -> list[int]:
    """Residues of each chain."""
    return torch.bincount(ensemble.chain_index).tolist()


@pytest.mark.parametrize("number", ["A000", "****", "9999", "x1"])
@pytest.mark.parametrize("name", ["HOH", "OPC", "TP3", "XYZ"])
def test_solvent_may_have_any_number(read, number, name):
    """openmm/openmm#3501, MDAnalysis/mdanalysis#5089: waters beyond 9999."""
    water = WATER.format(number).replace("HOH", name)
    ensemble = read(pdb([*peptide(), "TER", water, water], [*peptide(), "TER", water, water]))
    assert (ensemble.sequence, ensemble.chain_ids) == ("AGS", ("A",))
    assert name in [note.residue for note in ensemble.report.of_kind("dropped")]


def numbered(numbers: list[str]) -> list[str]:
    """A peptide with these texts from column 23 on."""
    texts = np.repeat(numbers, 3)
    return [line[:22] + f"{n:<5s}" + line[27:] for line, n in zip(peptide(), texts, strict=True)]


def test_numbers_of_the_protein_are_hybrid_36(read):
    ensemble = read(pdb(numbered(["9999", "A000", "A001"])))
    assert ensemble.residue_numbers.tolist() == [9999, 10_000, 10_001]
    # the fifth digit stands in the column of insertion codes
    ensemble = read(pdb(numbered(["10009", "10010", "10011"])))
    assert ensemble.residue_numbers.tolist() == [10_009, 10_010, 10_011]
    assert ensemble.insertion_codes == ("", "", "")
    with pytest.raises(ValueError, match=r"line 8 .*residue number '\*\*\*\*' cannot be read"):
        read(pdb(numbered(["9998", "9999", "****"])))


@pytest.mark.parametrize("record", ["HETATM", "ATOM"])
def test_ligands_lipids_and_hemes_may_share_the_number_of_a_residue(read, record):
    """prody/ProDy#1642 (GROMACS: no chains, the ligand is 1), MDAnalysis/mdanalysis#1306 (POPC)."""
    ligand = [
        line.replace(" CA ", " C1 ") if name == "LIG" else line
        for i, name in enumerate(("LIG", "POP", "HEM"))
        for line in moved(residue(name, 2, record=record), (0.0, 9.0 * i, 30.0))
    ]
    for lines in ([*peptide(), *ligand], [*ligand, *peptide()], blank([*peptide(), *ligand])):
        ensemble = read(pdb(lines, lines))
        assert (ensemble.sequence, counts(ensemble)) == ("AGS", [3])
    # a free amino acid has N, CA and C, but no bond to the chain
    free = moved(residue("GLU", 2, record=record), FAR)
    for lines in (blank([*peptide(), *free]), [*peptide(), *free]):
        ensemble = read(pdb(lines, lines))
        assert (ensemble.sequence, counts(ensemble)) == ("AGS", [3])
        assert "GLU" in [note.residue for note in ensemble.report.of_kind("dropped")]


@pytest.mark.parametrize(
    "wide",
    [
        "10001.333  -2.533   3.806",
        "-1001.333-1002.533-1003.806",
        "   1.333  -2.53310003.806",
        "********  -2.533   3.806",
        "                        ",
    ],
)
def test_coordinates_beyond_their_columns_name_the_line_of_the_file(read, wide):
    """project-gemmi/gemmi#313, biotite-dev/biotite#559."""
    lines = pdb(peptide(), peptide()).splitlines()
    lines[15] = lines[15][:30] + wide + lines[15][54:]
    with pytest.raises(ValueError, match=r"x\.pdb: line 16 .*model 2, residue A GLY 2.*columns"):
        read("\n".join(lines))


def copy(start: int = 1) -> list[str]:
    return moved(peptide(start=1) if start == 1 else renumbered(start), FAR)


def renumbered(start: int) -> list[str]:
    return [f"{line[:22]}{int(line[22:26]) - 1 + start:4d}{line[26:]}" for line in peptide()]


@pytest.mark.parametrize("start", [1, 4, 20])
@pytest.mark.parametrize("ter", [True, False])
def test_chains_without_identifiers(read, start, ter):
    """haddocking/pdb-tools#70 (numbers start again), project-gemmi/gemmi#35 (they go on)."""
    end = ["TER"] if ter else []
    model = [*blank(peptide()), *end, *blank(copy(start)), *end]
    ensemble = read(pdb(model, model))
    if start > 1 and not ter:  # nothing says that a chain ends there: a break
        assert (ensemble.sequence, counts(ensemble)) == ("AGSAGS", [6])
        assert ensemble.bonded.tolist() == [True, True, False, True, True, False]
        return
    assert (ensemble.chain_ids, counts(ensemble)) == (("A", "B"), [3, 3])
    assert ensemble.residue_numbers.tolist() == [1, 2, 3, start, start + 1, start + 2]
    assert len(ensemble.report.of_kind("blank chain")) == 2


@pytest.mark.parametrize("name", ["OXT", "OT2", "OC2", "O2"])
def test_oxygens_of_a_terminus_end_a_chain_without_identifier(read, name):
    last = atom("N", "SER", 3).replace(" N  ", f" {name:<3s}")
    ensemble = read(pdb(blank([*peptide(), last, *copy(4)])))
    assert (ensemble.chain_ids, counts(ensemble)) == (("A", "B"), [3, 3])


@pytest.mark.parametrize("chain", ["A", " "])
def test_segments_tell_chains_apart(read, chain):
    """chemfiles/chemfiles#361: psfgen writes two copies of chain A with segments P1 and P2."""

    def segment(lines: list[str], name: str) -> list[str]:
        return [
            f"{line[:21]}{chain}{line[22:72]}      {name}"[:72] + f"{name:<4s}" for line in lines
        ]

    model = [*segment(peptide(), "P1"), *segment(copy(), "P2")]
    ensemble = read(pdb(model, model))
    assert (ensemble.sequence, counts(ensemble)) == ("AGSAGS", [3, 3])
    assert ensemble.chain_ids == ("A", "B")


def test_a_chain_given_twice_in_one_place_is_refused(read):
    for lines in ([*peptide(), *peptide()], [*peptide(), "TER", *peptide()],
                  [*peptide(), *moved(peptide(), (0.5, 0.5, 0.5))]):  # fmt: skip
        for model in (lines, blank(lines)):
            with pytest.raises(
                ValueError, match=r"model 1, residue .*ALA 1: atom N is given twice"
            ):
                read(pdb([line.strip() if line.startswith("TER") else line for line in model]))
