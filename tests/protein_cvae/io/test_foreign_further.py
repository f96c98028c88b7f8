"""Further public reports of the same kinds, rebuilt small; repository#number each."""

from __future__ import annotations

import pytest
import torch
from protein_files import (
    FAR,
    atom,
    blank,
    cif,
    moved,
    pdb,
    peptide,
    residue,
)

from protein_cvae.ensemble import Ensemble


def counts(ensemble: Ensemble) -> list[int]:
    """Residues of each chain."""
    return torch.bincount(ensemble.chain_index).tolist()


def test_caps_and_ter_at_a_break(read):
    """openmm/openmm#2087: both ends of a gap are capped, with TER between, under one chain."""
    cap = {"chain": "K", "code": "A", "record": "HETATM"}
    lines = [
        *residue("PHE", 960, chain="K", slot=1),
        *(atom(a, "NME", 960, slot=2, **cap) for a in ("N", "C")),
        "TER   ",
        *(atom(a, "ACE", 966, slot=8, **cap) for a in ("CA", "C")),
        *residue("ASP", 967, chain="K", slot=9),
        *residue("GLY", 968, chain="K", slot=10),
    ]
    ensemble = read(pdb(lines, lines))
    assert (ensemble.sequence, ensemble.chain_ids) == ("FDG", ("K",))
    assert ensemble.bonded.tolist() == [False, True, False]


def test_a_chain_identifier_that_says_what_kind_of_molecule(read):
    """openmm/openmm#3859: P for proteins, of two segments, and lipids that are all POPC 1."""

    def of(lines: list[str], chain: str, segment: str) -> list[str]:
        return [f"{line[:21]}{chain}{line[22:72]:<50s}{segment:<4s}" for line in lines]

    lipids = of(moved([atom(a, "POP", 1) for a in ("N", "C")] * 2, (0.0, 9.0, 9.0)), "L", "L1")
    lipids = [f"{line[:6]}1c51f{line[11:17]}POPC{line[21:]}" for line in lipids]
    lines = [*of(peptide(), "P", "P1"), *of(moved(peptide(), FAR), "P", "P2"), *lipids]
    ensemble = read(pdb(lines, lines))
    assert (ensemble.sequence, counts(ensemble)) == ("AGSAGS", [3, 3])
    assert ensemble.report.of_kind("dropped")[0].residue == "POPC"


@pytest.mark.parametrize("make", [pdb, cif])
def test_two_residue_types_atom_by_atom(read, make):
    """biotite-dev/biotite#824, openmm/openmm#2077: locations of two types, interleaved."""
    pro = residue("PRO", 2, altloc="A", occupancy=0.6)
    ser = residue("SER", 2, altloc="B", occupancy=0.4, shift=0.2)
    both = [line for pair in zip(pro, ser, strict=True) for line in pair]
    lines = [*residue("ALA", 1), *both, *residue("GLY", 3)]
    ensemble = read(make(lines, lines), "x.pdb" if make is pdb else "x.cif")
    assert ensemble.sequence == "APG"
    assert torch.allclose(ensemble.coordinates[..., 2], torch.zeros(()))


def test_mmcif_without_author_numbers(read):
    """project-gemmi/gemmi#327: PyMOL writes no auth_seq_id."""
    lines = cif(peptide(), peptide()).splitlines()
    head = [line for line in lines if line.startswith("_atom_site.")]
    place = head.index("_atom_site.auth_seq_id")
    rows = [
        " ".join(word for i, word in enumerate(line.split()) if i != place)
        if line.startswith("ATOM")
        else line
        for line in lines
        if line != head[place]
    ]
    ensemble = read("\n".join([*rows, ""]), "x.cif")
    assert (ensemble.model_numbers, ensemble.residue_numbers.tolist()) == ((1, 2), [1, 2, 3])


def test_insertion_codes_before_the_number_itself(read):
    """haddocking/pdb-tools#64: 1A, 2A, 1, 2 along an unbroken chain."""
    lines = [
        *residue("GLY", 1, code="A", slot=1),
        *residue("SER", 2, code="A", slot=2),
        *residue("PRO", 1, slot=3),
        *residue("ALA", 2, slot=4),
    ]
    ensemble = read(pdb(lines))
    assert (ensemble.sequence, ensemble.insertion_codes) == ("GSPA", ("A", "A", "", ""))
    assert ensemble.bonded.tolist() == [True, True, True, False]


def test_model_numbers_of_five_digits(read):
    """marrink-lab/vermouth-martinize#324: MODEL 50001 reaches beyond its columns."""
    text = pdb(peptide(), peptide())
    for number in (1, 2):
        text = text.replace(f"MODEL        {number}", f"MODEL    5000{number}")
    assert read(text).model_numbers == (50001, 50002)


def test_models_of_casp(read):
    """ChemBioHTP/EnzyHTP#176: MODEL 1 ends in TER and END, without ENDMDL."""
    head = ["PFRMAT TS", "MODEL  1", "PARENT N/A"]
    text = "\n".join([*head, *peptide(), "TER", "END", ""])
    assert read(text).model_numbers == (1,)
    assert read(text + text.replace("MODEL  1", "MODEL  2")).model_numbers == (1, 2)


def test_coordinates_of_what_is_dropped_are_not_looked_at(read):
    """m3g/packmol#13: asterisks where coordinates do not fit, in what is no protein."""
    other = atom("C", "RES", 1, chain="K")
    other = other[:30] + "********-428.237********" + other[54:]
    assert read(pdb([*peptide(), other])).sequence == "AGS"


def test_ter_in_the_middle_of_a_chain_and_modified_residues(read):
    """molstar/molstar#1245 (TER), nglviewer/ngl#346 (HETATM)."""
    lines = [
        *residue("ALA", 1),
        *residue("PTR", 2, record="HETATM"),
        "TER   ",
        *residue("SER", 3),
    ]
    for model in (lines, blank(lines)):
        model = [line.strip() if line.startswith("TER") else line for line in model]
        ensemble = read(pdb(model, model))
        assert (ensemble.sequence, counts(ensemble)) == ("AYS", [3])
        assert ensemble.bonded.tolist() == [True, True, False]
