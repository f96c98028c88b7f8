"""Names of residues, and alternate locations, of files
as other programs write them, rebuilt small from public reports; repository#number each."""

from __future__ import annotations

import pytest
import torch
from protein_files import (
    FAR,
    atom,
    moved,
    pdb,
    peptide,
    renamed,
    residue,
)

from protein_cvae.residues import ONE_TO_THREE

AMBER = sorted(
    (side + name, letter)
    for letter, name in (*((a, b) for a, b in ONE_TO_THREE.items()), ("H", "HID"), ("H", "HIE"),
                         ("H", "HIP"), ("C", "CYX"))
    for side in "NC"
)  # fmt: skip


@pytest.mark.parametrize(("name", "letter"), AMBER)
@pytest.mark.parametrize("chain", ["A", " "])
def test_amber_names_of_terminal_residues_are_read_whole(read, name, letter, chain):
    """molstar/molstar#1601, openforcefield/openff-pablo#76: NMET, CALA in columns 18 to 21."""
    first = name[0] == "N"
    names = {"ALA" if first else "SER": name}
    model = renamed(peptide(("ALA", "GLY", "SER")), names)
    model = [line[:21] + chain + line[22:] for line in model]
    ensemble = read(pdb(model, model))
    assert ensemble.sequence == (f"{letter}GS" if first else f"AG{letter}")
    assert ensemble.chain_ids == ("A",)
    assert name in ensemble.report.of_kind("modified residue")[0].residue


@pytest.mark.parametrize(("name", "letter"), AMBER)
def test_amber_names_that_gromacs_has_cut(read, name, letter):
    """mdtraj/mdtraj#433: NMET becomes NME, which is also a cap; a backbone tells no more."""
    first = name[0] == "N"
    model = renamed(peptide(("ALA", "GLY", "SER")), {"ALA" if first else "SER": name[:3]})
    sequence = read(pdb(model)).sequence
    assert len(sequence) == 3
    assert sequence[0 if first else 2] in (letter, "X")


def test_side_chains_tell_cut_names_apart(read):
    side = {"NASP": ("CB", "CG", "OD1", "OD2"), "NASN": ("CB", "CG", "OD1", "ND2")}
    for name, atoms in side.items():
        lines = renamed(peptide(), {"ALA": name[:3]})
        more = [lines[0].replace(" N  ", f" {a:<3s}") for a in atoms]
        assert (
            read(pdb([*lines[:3], *more, *lines[3:]])).sequence[0]
            == {"NASP": "D", "NASN": "N"}[name]
        )


@pytest.mark.parametrize("name", ["NME", "ACE", " CA", " ZN", "CAL", "CLA", "SOD"])
def test_what_is_called_like_a_cap_or_an_ion_is_one_unless_it_is_bonded(read, name):
    named = renamed(peptide(("ALA", "GLY", "SER")), {"GLY": name})
    assert read(pdb(named)).sequence == "AXS"
    ion = atom("CA", name, 9, shift=25.0)
    assert read(pdb([*peptide(), ion])).sequence == "AGS"
    alone = moved(renamed(residue("GLY", 9), {"GLY": name}), FAR)
    assert read(pdb([*peptide(), *alone])).sequence == "AGS"


def test_two_letters_of_a_chain_are_no_letter_of_a_name(read):
    model = [line[:20] + "AB" + line[22:] for line in peptide()]
    other = [line[:20] + "AC" + line[22:] for line in moved(peptide(), FAR)]
    ensemble = read(pdb([*model, *other]))
    assert (ensemble.sequence, ensemble.chain_ids) == ("AGSAGS", ("AB", "AC"))


def test_atoms_without_a_location_may_be_the_ones_occupied_most(read):
    model = [
        *residue("ALA", 1),
        *residue("GLY", 2, occupancy=0.7),
        *residue("GLY", 2, altloc="B", occupancy=0.3, shift=0.4),
        *residue("SER", 3, occupancy=0.3),
        *residue("SER", 3, altloc="B", occupancy=0.7, shift=0.4),
    ]
    heights = read(pdb(model, model)).coordinates[0, :, :, 2]
    assert torch.allclose(heights, torch.tensor([[0.0] * 3, [0.0] * 3, [0.4] * 3]))
