"""Models, ends of lines and periodic boxes of files
as other programs write them, rebuilt small from public reports; repository#number each."""

from __future__ import annotations

import pytest
import torch
from protein_files import (
    BOXES,
    cif,
    moved,
    pdb,
    peptide,
    residue,
    vectors,
)

CRYST1 = "CRYST1   60.000   60.000   60.000  90.00  90.00  90.00 P 1           1"


def test_each_end_that_atoms_follow_ends_a_model(read):
    """MDAnalysis/mdanalysis#1133: VMD writes frames that each end in END."""
    frame = [*peptide(), "END"]
    ensemble = read("\n".join([CRYST1, *frame, *frame, *frame, ""]))
    assert (ensemble.model_numbers, ensemble.sequence) == ((1, 2, 3), "AGS")
    # CONECT and MASTER records behind an END, and a second END, are no model
    ensemble = read("\n".join([*frame, "CONECT    1    2", "END", *frame, "MASTER", "END", ""]))
    assert ensemble.model_numbers == (1, 2)


def test_files_put_together_with_cat(read):
    """BLEACH366/P2DFlow#7: MODEL 1, ENDMDL, END, again and again; also with byte order marks."""
    one = pdb(peptide())
    assert read(one * 3).model_numbers == (1, 2, 3)
    marked = ("\ufeff" + one) * 2
    ensemble = read(marked)
    assert (ensemble.model_numbers, ensemble.sequence) == ((1, 2), "AGS")
    assert bool(ensemble.mask.all())


def test_model_numbers_are_the_files(read):
    """bjing2016/alphaflow, alphaflow/utils/protein.py: MODEL 0, not in columns."""
    text = pdb(peptide(), peptide(), peptide(), numbers=[0, 1, 2])
    assert read(text.replace("MODEL        ", "MODEL ")).model_numbers == (0, 1, 2)
    assert read(pdb(peptide(), peptide(), numbers=[10_000, 10_001])).model_numbers[0] == 10_000


def test_a_comment_does_not_end_the_table_of_mmcif(read):
    """mdtraj/mdtraj#1998, megane-labs/megane#464: a line "#" behind each model."""
    lines = cif(peptide(), peptide(), peptide()).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("ATOM"))
    rows = [
        row
        for i, row in enumerate(lines[first:-1])
        for row in ([row, "#"] if i % 9 == 8 else [row])
    ]
    ensemble = read("\n".join([*lines[:first], *rows, ""]), "x.cif")
    assert (ensemble.model_numbers, ensemble.sequence) == ((1, 2, 3), "AGS")


def test_mmcif_whose_author_numbers_or_model_numbers_are_unset(read):
    """biojava/biojava#775: auth_seq_id is "?" in every row, label_seq_id is there."""
    text = cif(peptide())
    rows = [line.split() for line in text.splitlines() if line.startswith("ATOM")]
    for row in rows:
        text = text.replace(" ".join(row), " ".join([*row[:-3], "?", *row[-2:]]))
    ensemble = read(text, "x.cif")
    assert ensemble.residue_numbers.tolist() == [1, 2, 3]
    unset = "\n".join(
        line[:-1] + "?" if line.startswith("ATOM") else line for line in text.splitlines()
    )
    assert read(unset + "\n", "x.cif").model_numbers == (1,)


def test_mmcif_indented_and_in_capitals(read):
    text = cif(peptide(), peptide())
    for change in ("_atom_site.", "loop_", "data_"):
        text = text.replace(change, change.upper())
    text = "\n".join("   " + line for line in text.splitlines())
    assert read(text + "\n", "x.cif").sequence == "AGS"


@pytest.mark.parametrize("make", [pdb, cif])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_ends_of_lines(read, make, encoding, end):
    """alanwilter/acpype#128: a mark before the first ATOM."""
    text = make(peptide(), peptide())
    if make is pdb:
        text = "\n".join([*peptide(), "END", ""])
    name = "x.pdb" if make is pdb else "x.cif"
    ensemble = read(text.replace("\n", end).encode(encoding), name)
    assert ensemble.sequence == "AGS"
    assert bool(ensemble.mask.all())


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize("every", [False, True])
def test_a_chain_that_the_box_cuts_is_made_whole(read, box, first, every):
    """MDAnalysis/mdanalysis#1004, openmm/openmm#3626; also between atoms of one residue."""
    cell = "CRYST1" + "".join(f"{e:9.3f}" for e in BOXES[box][:3])
    cell += "".join(f"{a:7.2f}" for a in BOXES[box][3:]) + " P 1           1"
    whole = peptide()
    a, b, c = vectors(BOXES[box])
    for image in (a, -c, a - b + c):
        cut = [*whole[:first], *moved(whole[first:], tuple(image))]
        models = [cut] * 3 if every else [whole, cut, whole]
        ensemble = read(cell + "\n" + pdb(*models))
        expected = read(pdb(whole)).coordinates[0]
        assert bool(ensemble.mask.all())
        assert ensemble.bonded.tolist() == [True, True, False]
        assert torch.allclose(ensemble.coordinates, expected.expand(3, -1, -1, -1), atol=3e-3)
        noted = {note.model for note in ensemble.report.of_kind("periodic box")}
        assert noted == ({None} if every else {2})


def test_a_chain_cut_by_a_box_that_is_not_given_is_refused(read):
    cut = [*peptide()[:6], *moved(peptide()[6:], (60.0, 0.0, 0.0))]
    for cell in ("", "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n",
                 CRYST1.replace("60.000", "55.000") + "\n"):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"model 2\), residue A GLY 2: .*A SER 3 .*periodic box"
        ):
            read(cell + pdb(peptide(), cut, peptide()))


def test_a_break_is_no_cut(read):
    """Residues that are missing: no box vector makes a bond of that."""
    gap = [*residue("ALA", 1), *residue("GLY", 2), *residue("SER", 7, slot=7)]
    ensemble = read(CRYST1 + "\n" + pdb(gap, gap))
    assert ensemble.bonded.tolist() == [True, False, False]
    assert not ensemble.report.of_kind("periodic box")


def test_old_files_number_their_lines(read):
    """Entry and line number in columns 73 to 80, as the archive wrote them before 1996."""
    lines = [f"{line[:72]:<72s}1ABC{i:4d}" for i, line in enumerate(peptide() * 1, start=9)]
    ensemble = read("\n".join([*lines, "TER", "END", ""]))
    assert (ensemble.sequence, ensemble.chain_ids) == ("AGS", ("A",))
