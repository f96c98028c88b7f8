"""A small peptide as PDB and mmCIF text, atom by atom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

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


FAR = (0.0, 0.0, 30.0)


def blank(lines: list[str]) -> list[str]:
    """Without chain identifier."""
    return [line[:21] + " " + line[22:] for line in lines]


def moved(lines: list[str], by: tuple[float, float, float]) -> list[str]:
    found = []
    for line in lines:
        xyz = [float(line[a : a + 8]) + d for a, d in zip((30, 38, 46), by, strict=True)]
        found.append(line[:30] + "".join(f"{v:8.3f}" for v in xyz) + line[54:])
    return found


def renamed(lines: list[str], names: dict[str, str]) -> list[str]:
    """Names of three or four letters in columns 18 to 21."""
    return [line[:17] + names.get(line[17:20], line[17:20]).ljust(4) + line[21:] for line in lines]


BOXES = {
    "cube": (60.0, 60.0, 60.0, 90.0, 90.0, 90.0),
    "dodecahedron": (60.0, 60.0, 60.0, 60.0, 60.0, 90.0),
    "triclinic": (50.0, 60.0, 70.0, 75.0, 80.0, 65.0),
}


def vectors(box: tuple[float, ...]) -> np.ndarray:
    """Rows a, b, c, written out anew from the metric: B Bᵀ = G, by Cholesky."""
    edges, angles = np.array(box[:3]), np.radians(box[3:])
    cosines = np.array([[1, np.cos(angles[2]), np.cos(angles[1])],
                        [np.cos(angles[2]), 1, np.cos(angles[0])],
                        [np.cos(angles[1]), np.cos(angles[0]), 1]])  # fmt: skip
    return np.linalg.cholesky(cosines * np.outer(edges, edges))


FORMATS = pytest.mark.parametrize(("make", "suffix"), [(pdb, "pdb"), (cif, "cif")])
