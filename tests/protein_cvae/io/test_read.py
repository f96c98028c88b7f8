"""Reading PDB and mmCIF: what is handled and how."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pytest
import torch
from protein_files import BACKBONE, FORMATS, atom, cif, pdb, peptide, place, residue


@FORMATS
@pytest.mark.parametrize("compressed", [False, True])
def test_models_residues_and_coordinates_are_the_files(read, make, suffix, compressed):
    text = make(peptide(), peptide(), peptide())
    name = f"few.residues.{suffix}" + (".gz" if compressed else "")
    ensemble = read(gzip.compress(text.encode()) if compressed else text, name)
    assert (ensemble.name, ensemble.sequence) == ("few.residues", "AGS")
    assert ensemble.model_numbers == (1, 2, 3)
    assert ensemble.chain_ids == ("A",)
    assert ensemble.residue_numbers.tolist() == [1, 2, 3]
    assert ensemble.insertion_codes == ("", "", "")
    assert ensemble.bonded.tolist() == [True, True, False]
    assert bool(ensemble.mask.all())
    assert ensemble.report.notes == ()
    wanted = np.array([[place(i, a) for a in BACKBONE] for i in (1, 2, 3)])
    assert ensemble.coordinates.shape == (3, 3, 3, 3)
    assert np.allclose(ensemble.coordinates.numpy(), wanted, atol=6e-4)  # the file's own digits


@FORMATS
def test_several_chains_and_the_longest(read, make, suffix):
    model = [
        *peptide(("ALA", "GLY")),
        *(x for i in range(1, 5) for x in residue("LEU", i, chain="C", shift=9.0)),
        *(x for i in range(1, 5) for x in residue("TRP", i, chain="B", shift=18.0)),
    ]
    ensemble = read(make(model, model), f"x.{suffix}")
    assert ensemble.chain_ids == ("A", "C", "B")
    assert ensemble.sequence == "AGLLLLWWWW"
    assert ensemble.chain_index.tolist() == [0] * 2 + [1] * 4 + [2] * 4
    # residues 2 of A and 1 of C are near in the list, not in space; chain ends never bond
    assert ensemble.bonded.tolist() == [True, False] + [True] * 3 + [False] + [True] * 3 + [False]
    longest = ensemble.select_chain("longest")
    assert (longest.sequence, longest.chain_ids) == ("LLLL", ("C",))  # the first of the two
    assert ensemble.select_chain(2).sequence == "WWWW"


@FORMATS
def test_alternate_locations_highest_occupancy_then_first_letter(read, make, suffix):
    model = [
        *residue("ALA", 1, altloc="A", occupancy=0.4),
        *residue("ALA", 1, altloc="B", occupancy=0.6, shift=0.2),
        *residue("GLY", 2, altloc="B", occupancy=0.5, shift=0.3),
        *residue("GLY", 2, altloc="A", occupancy=0.5),
        atom("N", "SER", 3),
        atom("CA", "SER", 3, altloc="A", occupancy=0.3),
        atom("CA", "SER", 3, altloc="B", occupancy=0.7, shift=0.4),
        atom("C", "SER", 3, altloc="A", occupancy=0.8),
        atom("C", "SER", 3, altloc="B", occupancy=0.2, shift=0.4),
    ]
    ensemble = read(make(model), f"x.{suffix}")
    heights = ensemble.coordinates[0, :, :, 2]
    assert torch.allclose(heights[0], torch.tensor([0.2, 0.2, 0.2]))  # B: 0.6
    assert torch.allclose(heights[1], torch.zeros(3))  # equal: A, though B stands first
    # A has 0.3 + 0.8, B 0.7 + 0.2: A for both atoms, never CA of one and C of the other
    assert torch.allclose(heights[2], torch.zeros(3))
    notes = ensemble.report.of_kind("alternate locations")
    assert [note.residue for note in notes] == ["A ALA 1", "A GLY 2", "A SER 3"]


def test_alternate_location_is_the_same_in_all_models(read):
    def model(a: float, b: float) -> list[str]:
        first = residue("ALA", 1, altloc="A", occupancy=a)
        return first + residue("ALA", 1, altloc="B", occupancy=b, shift=1.0) + residue("GLY", 2)

    ensemble = read(pdb(model(0.4, 0.6), model(0.9, 0.1)))
    assert ensemble.coordinates[:, 0, :, 2].abs().max() == 0  # A: 1.3 against 0.7


def test_two_residue_types_at_one_place_one_is_taken_whole(read):
    model = [
        *residue("ALA", 1),
        *residue("SER", 2, altloc="A", occupancy=0.45),
        *residue("THR", 2, altloc="B", occupancy=0.55, shift=0.2),
        *residue("GLY", 3),
    ]
    ensemble = read(pdb(model, model))
    assert ensemble.sequence == "ATG"
    assert torch.allclose(ensemble.coordinates[0, 1, :, 2], torch.tensor(0.2))


@FORMATS
def test_insertion_codes_stay_in_file_order(read, make, suffix):
    model = [
        *residue("ALA", 52),
        *residue("GLY", 52, code="A", slot=53),
        *residue("SER", 52, code="B", slot=54),
        *residue("LEU", 53, slot=55),
    ]
    ensemble = read(make(model), f"x.{suffix}")
    assert ensemble.sequence == "AGSL"
    assert ensemble.insertion_codes == ("", "A", "B", "")
    assert ensemble.residue_numbers.tolist() == [52, 52, 52, 53]
    assert ensemble.bonded.tolist() == [True, True, True, False]
    assert ensemble.label(2) == "A SER 52B"


def test_missing_backbone_atoms_mask_the_residue_in_that_model(read):
    whole = peptide()
    without = [line for line in whole if not (line[12:16].strip() == "C" and line[17:20] == "GLY")]
    ensemble = read(pdb(whole, without))
    assert ensemble.mask.tolist() == [[True] * 3, [True, False, True]]
    assert ensemble.coordinates[1, 1].abs().max() == 0
    assert ensemble.bonded.tolist() == [True, True, False]  # from the model that has both
    (note,) = ensemble.report.notes
    assert (note.kind, note.model, note.residue) == ("missing backbone atoms", 2, "A GLY 2")
    assert "no C" in note.detail


def test_residue_of_side_chain_atoms_only_keeps_its_place(read):
    side = atom("CA", "GLY", 2).replace(" CA ", " CB ")
    ensemble = read(pdb([*residue("ALA", 1), side, *residue("SER", 3)]))
    assert ensemble.sequence == "AGS"
    assert ensemble.mask.tolist() == [[True, False, True]]
    assert ensemble.bonded.tolist() == [False, False, False]


def test_atoms_that_cannot_be_one_residues_are_masked(read):
    lines = peptide()
    lines[4] = atom("CA", "GLY", 2, shift=7.0)
    (note,) = read(pdb(lines)).report.of_kind("broken residue")
    assert note.residue == "A GLY 2"
    assert "N-CA distance 7.1" in note.detail


def test_chain_break_is_not_bonded_whatever_the_numbers(read):
    gap = [*residue("ALA", 1), *residue("GLY", 2), *residue("SER", 3, slot=9)]
    ensemble = read(pdb(gap))
    assert ensemble.bonded.tolist() == [True, False, False]
    assert ensemble.report.of_kind("chain break")[0].residue == "A GLY 2"
    skipped = [*residue("ALA", 1), *residue("GLY", 5, slot=2), *residue("SER", 6, slot=3)]
    assert read(pdb(skipped)).bonded.tolist() == [True, True, False]


@FORMATS
def test_modified_residues_take_the_letter_of_the_parent(read, make, suffix):
    names = ("PCA", "MSE", "SME", "SEP", "ASH", "GLH", "LRT", "YPL", "HID", "CYX", "HIE", "TPO")
    model = [
        line
        for i, name in enumerate(names)
        for line in residue(name, i + 1, record="HETATM" if i < 4 else "ATOM")
    ]
    ensemble = read(make(model, model), f"x.{suffix}")
    assert ensemble.sequence == "QMMSDEKCHCHT"
    assert bool(ensemble.bonded[:-1].all())
    notes = ensemble.report.of_kind("modified residue")
    assert [note.residue.split()[1] for note in notes] == list(names)


def test_unknown_amino_acid_is_x_and_free_ones_are_dropped(read):
    model = [
        *residue("ALA", 1),
        *residue("ZZZ", 2, record="HETATM"),
        *residue("UNK", 3),
        *residue("GLU", 401, slot=30, record="HETATM"),
        *residue("QQQ", 402, slot=40, record="HETATM"),
    ]
    ensemble = read(pdb(model))
    assert ensemble.sequence == "AXX"
    assert ensemble.aatype.tolist() == [0, 20, 20]
    assert {note.residue for note in ensemble.report.of_kind("dropped")} == {"GLU", "QQQ"}


def test_modified_residue_listed_behind_its_chain_is_put_in_place(read):
    model = [
        *residue("ALA", 1),
        *residue("GLY", 3),
        *residue("SER", 4),
        *residue("MSE", 2, record="HETATM"),
        *residue("PCA", 0, record="HETATM"),
    ]
    ensemble = read(pdb(model, model))
    assert ensemble.sequence == "QAMGS"
    assert ensemble.bonded.tolist() == [True] * 4 + [False]
    assert len(ensemble.report.of_kind("order of residues")) == 2


@FORMATS
def test_waters_ions_sugars_nucleotides_and_caps_are_dropped(read, make, suffix):
    extras = [
        atom("N", "NME", 4),
        atom("CA", " CA", 90, record="HETATM"),  # calcium
        atom("C", "NAG", 91, record="HETATM"),
        atom("N", " DA", 92, chain="D"),
        *[atom("N", "HOH", number, record="HETATM") for number in range(100, 120)],
    ]
    ensemble = read(make([atom("C", "ACE", 0), *peptide(), *extras]), f"x.{suffix}")
    assert ensemble.sequence == "AGS"
    assert ensemble.chain_ids == ("A",)
    dropped = {note.residue for note in ensemble.report.of_kind("dropped")}
    assert dropped == {"ACE", "NME", "CA", "NAG", "DA", "HOH"}


@pytest.mark.parametrize("first", [True, False])
def test_waters_and_ions_may_have_the_numbers_of_residues(read, first):
    """As in old files, and where a program counts on from 1 after 9999."""
    others = [
        atom("N", "SOL", 2),  # a water's atoms, by name, could be anything
        atom("CA", " CA", 2, record="HETATM"),
        atom("CA", " CA", 2, record="HETATM"),
        atom("N", "HOH", 3, record="HETATM"),
    ]
    ensemble = read(pdb([*others, *peptide()] if first else [*peptide(), *others]))
    assert ensemble.sequence == "AGS"
    assert bool(ensemble.mask.all())
    dropped = {note.residue for note in ensemble.report.of_kind("dropped")}
    assert dropped == {"SOL", "CA", "HOH"}


@FORMATS
def test_models_of_unequal_length_are_aligned_on_identity(read, make, suffix):
    names = ("ALA", "GLY", "SER", "LEU", "VAL")
    whole = peptide(names)
    middle = [line for line in whole if line[17:20] not in ("ALA", "SER")]
    tail = [*whole[:-3], *residue("VAL", 5), *residue("TRP", 6)]
    ensemble = read(make(middle, whole, tail), f"x.{suffix}")
    assert ensemble.sequence == "AGSLVW"  # in the place each has in the models that have it
    assert ensemble.mask.int().tolist() == [
        [0, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert torch.isfinite(ensemble.coordinates).all()
    absent = ensemble.report.of_kind("absent residue")
    assert {(note.model, note.residue) for note in absent} == {
        (1, "A ALA 1"),
        (1, "A SER 3"),
        (1, "A TRP 6"),
        (2, "A TRP 6"),
    }


def test_model_numbers_are_kept_unless_one_repeats(read):
    models = (peptide(), peptide(), peptide())
    assert read(pdb(*models, numbers=[0, 7, 12])).model_numbers == (0, 7, 12)
    repeated = read(pdb(*models, numbers=[4, 4, 5]))
    assert repeated.model_numbers == (1, 2, 3)
    assert repeated.report.counts() == {"model numbers": 1}


def test_blank_chain_takes_the_first_free_letter(read):
    blank = [line[:21] + " " + line[22:] for line in peptide()]
    ensemble = read(pdb([*peptide(("LEU", "LEU")), *blank]))
    assert ensemble.chain_ids == ("A", "B")
    assert ensemble.report.counts() == {"blank chain": 1}


@pytest.mark.parametrize("entry", ["UNNAMED", "INPUT_FILE_1", ""])
def test_entry_id_of_mmcif_does_not_matter(read, entry):
    assert read(cif(peptide(), peptide(), entry=entry), "mine.cif").name == "mine"


def test_mmcif_without_optional_columns_and_with_quotes(read):
    """Occupancy "?", no insertion codes, no author numbers, rows over two lines, quoted names."""
    head = ["data_x", "loop_"]
    columns = "group_PDB label_atom_id label_comp_id label_asym_id label_seq_id".split()  # noqa: SIM905
    columns += ["Cartn_x", "Cartn_y", "Cartn_z", "occupancy"]
    head += [f"_atom_site.{name}" for name in columns]
    rows = []
    for line in peptide():
        x = f"{line[30:38].strip()}\n{line[38:46].strip()} {line[46:54].strip()} ?"
        rows.append(f"ATOM '{line[12:16].strip()}' {line[17:20]} A {line[22:26].strip()} {x}")
    rows.append("HETATM O HOH W . 1.0 2.0 3.0 1.0")
    ensemble = read("\n".join([*head, *rows, "_cell.length_a 1.0", ""]), "x.cif")
    assert (ensemble.sequence, ensemble.num_models) == ("AGS", 1)
    assert ensemble.bonded.tolist() == [True, True, False]


def test_single_model_reads_and_min_models_refuses_it(read):
    text = "\n".join([*peptide(), "TER", "END", ""])
    assert read(text).num_models == 1
    with pytest.raises(ValueError, match=r"x\.pdb: 1 model \(number 1\), min_models is 2"):
        read(text, min_models=2)


def test_max_residues_counts_all_chains(read):
    long = [line for i in range(1, 1006) for line in residue("ALA", i, slot=i % 300)]
    text = pdb(long)
    assert read(text).length == 1005
    with pytest.raises(ValueError, match=r"x\.pdb: 1005 residues from A ALA 1 to A ALA 1005.*1000"):
        read(text, max_residues=1000)


def test_nothing_is_printed_or_warned(read, capsys):
    lines = ["JUNK  a record of no kind", *peptide(), "END"]
    lines[1] = lines[1][:54]  # no occupancy, no B-factor
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read("\n".join(lines)).sequence == "AGS"
    assert capsys.readouterr() == ("", "")
