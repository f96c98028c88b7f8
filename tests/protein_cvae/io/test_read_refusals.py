"""Reading PDB and mmCIF: what is refused and with which words."""

from __future__ import annotations

import gzip

import pytest
from protein_files import atom, cif, pdb, peptide, residue

from protein_cvae.io import read_structure


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
    "no protein": ("x.pdb", pdb([atom("C", "NAG", 1)]), "no protein: none of its residues (NAG)"),
    "CA alone": (
        "x.pdb",
        pdb([line for line in peptide() if line[12:16] == " CA "]),
        "model 1, residue A ALA 1: no N, C",
    ),
    "NaN": ("x.pdb", edited(4, 30, "     nan"), "model 2, residue A GLY 2: atom CA"),
    "infinity": ("x.pdb", edited(8, 46, "     inf"), "model 2, residue A SER 3: atom C"),
    "NaN in mmCIF": ("x.cif", NAN_CIF, "model 2, residue A ALA 1: atom N"),
    "no number": ("x.pdb", edited(5, 30, "   1.2.3"), "model 2, residue A GLY 2"),
    "residue number": (
        "x.pdb",
        edited(3, 22, "  x2"),
        "line 16 (ATOM      1  N   GLY A  x2): model 2",
    ),
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
        " (model 1) and x.pdb (model 2) have 2 residues in common by sequence alignment, of 3",
    ),
    "two proteins": (
        "x.cif",
        cif(peptide(), peptide(("TRP", "TRP"), start=50)),
        " (model 1) and x.cif (model 2) have 0 residues in common by sequence alignment, of 3",
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
        "model 1, residue A GLY, atom N: residue number is 'two'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_file_model_and_residue(read, tmp_path, case):
    name, content, message = BAD[case]
    with pytest.raises(ValueError, match="x") as caught:
        read(content, name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value).replace(f"{tmp_path}/", "")


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pdb"):
        read_structure(tmp_path / "none.pdb")
    (tmp_path / "folder.pdb").mkdir()
    with pytest.raises(ValueError, match=r"folder\.pdb: a folder"):
        read_structure(tmp_path / "folder.pdb")
