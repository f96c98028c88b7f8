"""Files as other programs write them, rebuilt small from public reports; repository#number each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protein_files import BOXES, FAR, atom, blank, cif, moved, pdb, peptide, residue, vectors

from protein_cvae.ensemble import Ensemble
from protein_cvae.residues import ONE_TO_THREE

WATER = "HETATM   50  O   HOH B{:>4s}      20.000   1.000   1.000  1.00  0.00           O  "


def renamed(lines: list[str], names: dict[str, str]) -> list[str]:
    """Names of three or four letters in columns 18 to 21."""
    return [line[:17] + names.get(line[17:20], line[17:20]).ljust(4) + line[21:] for line in lines]


def counts(ensemble: Ensemble) -> list[int]:
    return torch.bincount(ensemble.chain_index).tolist()


CRYST1 = "CRYST1   60.000   60.000   60.000  90.00  90.00  90.00 P 1           1"


# -- models ------------------------------------------------------------------------------------


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


# -- numbers that are none, shared, or beyond the columns ---------------------------------------


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


# -- chains ------------------------------------------------------------------------------------


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


# -- names -------------------------------------------------------------------------------------


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
    other = [line[:20] + "AC" + line[22:] for line in copy()]
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


# -- text --------------------------------------------------------------------------------------


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


# -- the periodic box --------------------------------------------------------------------------


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


# -- further reports, tried after the above -----------------------------------------------------


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
