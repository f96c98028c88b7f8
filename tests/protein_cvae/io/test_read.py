"""Reading PDB and mmCIF: what is handled and how, what is refused and with which words."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from protein_cvae.ensemble import Ensemble
from protein_cvae.io import read_structure

# One residue; the next is the same, 3.3 and 1.62 Å further: C-N is then 1.31 Å.
RESIDUE = {"N": (0.0, 0.0, 0.0), "CA": (1.458, 0.0, 0.0), "C": (2.008, 1.42, 0.0)}
STEP = np.array([3.3, 1.62, 0.0])
BACKBONE = ("N", "CA", "C")


def place(slot: float, atom: str) -> np.ndarray:
    return np.array(RESIDUE[atom]) + slot * STEP


def atom(
    name: str,
    residue: str,
    number: int,
    *,
    chain: str = "A",
    code: str = " ",
    altloc: str = " ",
    occupancy: float = 1.0,
    slot: float | None = None,
    shift: float = 0.0,
    record: str = "ATOM",
) -> str:
    x, y, z = place(number if slot is None else slot, name) + np.array([0.0, 0.0, shift])
    label = name if len(name) == 4 else f" {name:<3s}"
    return (
        f"{record:<6s}{1:5d} {label}{altloc}{residue:>3s} {chain}{number:4d}{code}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0.0:6.2f}          {name[0]:>2s}"
    )


def residue(name: str, number: int, **options: object) -> list[str]:
    return [atom(a, name, number, **options) for a in BACKBONE]  # type: ignore[arg-type]


def peptide(names: Sequence[str] = ("ALA", "GLY", "SER"), start: int = 1) -> list[str]:
    return [line for i, name in enumerate(names) for line in residue(name, start + i)]


def pdb(*models: list[str], numbers: Sequence[int] | None = None) -> str:
    lines = []
    for i, model in enumerate(models):
        lines += [f"MODEL     {numbers[i] if numbers else i + 1:4d}", *model, "ENDMDL"]
    return "\n".join([*lines, "END", ""])


def cif(*models: list[str], entry: str = "TEST", end: str = "#\n") -> str:
    """The same atoms as mmCIF rows."""
    columns = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
    columns += "label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv "
    columns += "auth_seq_id auth_asym_id pdbx_PDB_model_num"
    head = [f"data_{entry}", "#", f"_entry.id {entry}", "#", "loop_"]
    head += [f"_atom_site.{name}" for name in columns.split()]
    rows = []
    for m, model in enumerate(models):
        for line in model:
            chain, number, code = line[21], line[22:26].strip(), line[26].strip() or "?"
            rows.append(
                f"{line[:6].strip()} {len(rows) + 1} {line[76:78].strip()} {line[12:16].strip()} "
                f"{line[16].strip() or '.'} {line[17:20].strip()} {chain} {number} {code} "
                f"{line[30:38].strip()} {line[38:46].strip()} {line[46:54].strip()} "
                f"{line[54:60].strip()} 0.00 {number} {chain} {m + 1}"
            )
    return "\n".join([*head, *rows]) + "\n" + end


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Ensemble]:
    def write_and_read(text: str | bytes, name: str = "x.pdb", **options: object) -> Ensemble:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_structure(path, **options)  # type: ignore[arg-type]

    return write_and_read


FORMATS = pytest.mark.parametrize(("make", "suffix"), [(pdb, "pdb"), (cif, "cif")])


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


def edited(line: int, start: int, text: str) -> str:
    lines = peptide()
    lines[line] = lines[line][:start] + text + lines[line][start + len(text) :]
    return pdb(peptide(), lines)


def truncated(text: str) -> bytes:
    data = gzip.compress(text.encode())
    return data[: len(data) // 2]


TWO = pdb(peptide(), peptide())
NAN_CIF = "nan".join(cif(peptide(), peptide()).rsplit("3.300", 1))
BAD = {
    "empty": ("x.pdb", "", "file is empty"),
    "empty gz": ("x.pdb.gz", b"", "file is empty"),
    "blank": ("x.cif", "\n \n", "file is empty"),
    "garbage pdb": ("x.pdb", bytes(range(256)) * 8, "no ATOM or HETATM record"),
    "garbage cif": ("x.cif", "lorem ipsum\n" * 9, "no _atom_site table in 9 lines"),
    "not gz": ("x.pdb.gz", TWO, "not gzip-compressed; remove .gz"),
    "gz without suffix": ("x.pdb", gzip.compress(TWO.encode()), "add .gz to its name"),
    "gz cut short": ("x.pdb.gz", truncated(TWO * 40), "damaged or cut short"),
    "gz damaged": ("x.pdb.gz", gzip.compress(TWO.encode())[:30] + b"\0" * 99, "damaged"),
    "mmCIF called pdb": ("x.pdb", cif(peptide()), "looks like mmCIF; call it .cif"),
    "PDB called cif": ("x.cif", TWO, "looks like a PDB file; call it .pdb"),
    "unknown suffix": ("x.xyz", TWO, "expected one of .pdb, .ent, .cif, .mmcif"),
    "no suffix": ("x", TWO, "suffix 'none' is not known"),
    "no protein": ("x.pdb", pdb([atom("C", "NAG", 1)]), "no protein: none of its 1 residues (NAG)"),
    "CA alone": (
        "x.pdb",
        pdb([line for line in peptide() if line[12:16] == " CA "]),
        "model 1, residue A ALA 1: no N, C",
    ),
    "NaN": ("x.pdb", edited(4, 30, "     nan"), "model 2, residue A GLY 2: atom CA"),
    "infinity": ("x.pdb", edited(8, 46, "     inf"), "model 2, residue A SER 3: atom C"),
    "NaN in mmCIF": ("x.cif", NAN_CIF, "model 2, residue A ALA 1: atom N"),
    "no number": ("x.pdb", edited(5, 30, "   1.2.3"), "model 2, residue A GLY 2"),
    "residue number": ("x.pdb", edited(3, 22, "  x2"), "model 2, residue A ALA 1 or the one after"),
    "line cut short": (
        "x.pdb",
        pdb(peptide())[: pdb(peptide()).index("SER A") + 20],
        "line 8 (ATOM      1  N   SER A   3)",
    ),
    "model cut short": (
        "x.pdb",
        TWO[: TWO.rindex("ATOM")],
        "last model is not closed by ENDMDL (last residue 'SER A   3'",
    ),
    "mmCIF cut short": (
        "x.cif",
        cif(peptide(), peptide(), end="")[:-25],
        "the file is cut short",
    ),
    "atoms after END": ("x.pdb", TWO + TWO, "after END in line"),
    "residue twice": (
        "x.pdb",
        pdb(peptide(), [*peptide(), *residue("GLY", 2)]),
        "model 2, residue A GLY 2: atom N is given twice",
    ),
    "residue twice in mmCIF": (
        "x.cif",
        cif(peptide(), [*peptide(), *residue("GLY", 2)]),
        "model 2, residue A GLY 2: atom N is given twice",
    ),
    "two names": (
        "x.pdb",
        pdb([*peptide(), *residue("LEU", 3)]),
        "model 1, residue A LEU 3: two residues have this number, SER and LEU",
    ),
    "two sequences": (
        "x.pdb",
        pdb(peptide(), peptide(("ALA", "LEU", "SER"))),
        "model 2, residue A LEU 2: an earlier model has GLY there",
    ),
    "two proteins": (
        "x.cif",
        cif(peptide(), peptide(("TRP", "TRP"), start=50)),
        "model 2 shares no residue with model 1 (first A TRP 50 and A ALA 1)",
    ),
    "two tables": ("x.cif", cif(peptide()) + cif(peptide()), "2 _atom_site tables"),
    "model in two places": (
        "x.cif",
        cif(peptide(), peptide(), peptide(start=4)).replace("A 3\n", "A 1\n"),
        "rows of model 1 stand in two places",
    ),
    "missing column": (
        "x.cif",
        cif(peptide()).replace("_atom_site.label_comp_id", "_atom_site.other"),
        "no column label_comp_id or auth_comp_id",
    ),
    "mmCIF residue number": (
        "x.cif",
        cif(peptide()).replace("0.00 2 A 1", "0.00 two A 1"),
        "model 1, residue A ALA 1 or the one after it: residue number is 'two'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_file_model_and_residue(read, tmp_path, case):
    name, content, message = BAD[case]
    with pytest.raises(ValueError, match="x") as caught:
        read(content, name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pdb"):
        read_structure(tmp_path / "none.pdb")
    (tmp_path / "folder.pdb").mkdir()
    with pytest.raises(ValueError, match=r"folder\.pdb: a folder"):
        read_structure(tmp_path / "folder.pdb")
