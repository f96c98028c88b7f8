"""PDB and mmCIF text to residue records, by Biopython's parsers.

Before a PDB text is parsed, lines that no backbone needs are blanked (line numbers stay), which
makes reading several times faster and keeps the parser's remarks about headers out of the way.
What the parser would pass over in silence is refused here: a line or file cut short, coordinates
after END, columns of unequal length.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from Bio.PDB import PDBParser
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from Bio.PDB.PDBExceptions import PDBConstructionException

from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.records import ModelRecords, RecordBuilder

_ATOM_RECORDS = ("ATOM  ", "HETATM")
_UNASSIGNED = (".", "?", "")
_LAST_COORDINATE = 54  # columns 31-54 hold x, y and z


def parse_pdb(text: str, path: Path) -> list[ModelRecords]:
    """The models of a PDB text.

    Args:
        text: the whole file.
        path: its name, for messages.

    Raises:
        ValueError: names file, line, model and residue if the text is not a PDB file, is cut
            short, or holds what cannot be read.
    """
    lines = _backbone_lines(text.splitlines(), path)
    builder = RecordBuilder(path)
    parser = PDBParser(PERMISSIVE=True, QUIET=True, structure_builder=builder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # blank occupancies and B-factors, which are not used
        try:
            models: list[ModelRecords] = parser.get_structure("", io.StringIO("\n".join(lines)))
        except PDBConstructionException as error:
            raise ValueError(f"{builder.where()} or the one after it: {error}") from None
        except (ValueError, IndexError) as error:
            if str(error).startswith(str(path)):
                raise
            raise ValueError(
                f"{builder.where()} or the one after it: residue number or atom record cannot be "
                f"read ({error})"
            ) from None
    return models


def _backbone_lines(lines: list[str], path: Path) -> list[str]:
    """The same lines, blank where they are neither models nor needed atoms."""
    kept = [""] * len(lines)
    residue, model_open, ended, atoms = "", False, 0, 0
    for i, line in enumerate(lines):
        record = line[:6].ljust(6)
        if record in _ATOM_RECORDS:
            atoms += 1
            if ended:
                raise ValueError(
                    f"{path}: line {i + 1} ({line[:27].strip()}): atoms after END in line {ended}; "
                    "separate models by MODEL and ENDMDL, not by END"
                )
            if len(line.rstrip()) < _LAST_COORDINATE - 2:
                raise ValueError(
                    f"{path}: line {i + 1} ({line[:27].strip()}): the record ends before its "
                    "coordinates; the file is cut short or not in columns"
                )
            if line[12:16].strip() in BACKBONE or line[17:27] != residue:
                kept[i] = line
            residue = line[17:27]
        elif record in ("MODEL ", "ENDMDL"):
            kept[i], residue = line, ""
            model_open = record == "MODEL "
        elif line.rstrip() == "END":
            ended, model_open = i + 1, False
    if atoms == 0:
        what = "it looks like mmCIF; call it .cif" if _is_mmcif(lines) else "it is no PDB file"
        raise ValueError(f"{path}: no ATOM or HETATM record in {len(lines)} lines; {what}")
    if model_open:
        raise ValueError(
            f"{path}: the last model is not closed by ENDMDL (last residue {residue.strip()!r}); "
            "the file is cut short"
        )
    return kept


def _is_mmcif(lines: list[str]) -> bool:
    return any(line.startswith(("data_", "_atom_site.")) for line in lines)


def parse_mmcif(text: str, path: Path) -> list[ModelRecords]:
    """The models of an mmCIF text: author chains and residue numbers, label ones where missing.

    Args:
        text: the whole file.
        path: its name, for messages.

    Raises:
        ValueError: names the file, and row, model and residue where there are any, if there is no
            atom table, it is cut short, or it holds what cannot be read.
    """
    table = _atom_table(text, path)
    builder = RecordBuilder(path)
    names = table["label_atom_id"]
    columns = [names, table["label_comp_id"], table["chain"], table["number"]]
    columns += [table[c] for c in ("pdbx_PDB_ins_code", "label_alt_id", "group_PDB", "occupancy")]
    columns += [table[c] for c in ("Cartn_x", "Cartn_y", "Cartn_z", "pdbx_PDB_model_num")]
    model, previous = "", ("",) * 4
    models: set[str] = set()
    for row in zip(*columns, strict=True):
        name, resname, chain, number, icode, altloc, group, occupancy, x, y, z, serial = row
        residue = (chain, number, icode, resname)
        if serial != model:
            if serial in models:
                raise ValueError(
                    f"{builder.where()}: rows of model {serial} stand in two places of the atom "
                    "table; sort it by model, or the file is cut short"
                )
            builder.init_model(len(models), _integer(serial, "model number", builder))
            models.add(serial)
            model, previous = serial, ("",) * 4
        if residue == previous and name not in BACKBONE:
            continue
        if number in _UNASSIGNED:
            continue  # mmCIF numbers every residue of a chain; these are waters and ligands
        if residue != previous:
            builder.init_chain("" if chain in _UNASSIGNED else chain)
            builder.init_residue(
                resname,
                "H" if group == "HETATM" else " ",
                _integer(number, "residue number", builder),
                "" if icode in _UNASSIGNED else icode,
            )
            previous = residue
        try:
            xyz = (float(x), float(y), float(z))
            full = None if occupancy in _UNASSIGNED else float(occupancy)
        except ValueError as error:
            raise ValueError(f"{builder.where()}: atom {name}: {error}") from None
        builder.init_atom(name, xyz, 0.0, full, "" if altloc in _UNASSIGNED else altloc)
    return builder.get_structure()


def _integer(text: str, what: str, builder: RecordBuilder) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{builder.where()} or the one after it: {what} is {text!r}, not an integer"
        ) from None


def _atom_table(text: str, path: Path) -> dict[str, list[str]]:
    """The columns that are needed, all of one length, by their names without "_atom_site."."""
    lines = text.splitlines()
    starts = sum(line.strip() == "_atom_site.Cartn_x" for line in lines)
    if starts == 0:
        pdb = any(line[:6] in _ATOM_RECORDS and line[12:16].strip() in BACKBONE for line in lines)
        what = "it looks like a PDB file; call it .pdb" if pdb else "it is no mmCIF structure file"
        raise ValueError(f"{path}: no _atom_site table in {len(lines)} lines; {what}")
    if starts > 1:
        raise ValueError(f"{path}: {starts} _atom_site tables; write each data block to a file")
    try:
        found = MMCIF2Dict(io.StringIO(_atom_section(lines)))
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: the _atom_site table cannot be read ({error})") from None
    columns = {
        name.removeprefix("_atom_site."): values
        for name, values in found.items()
        if name.startswith("_atom_site.")
    }
    rows = max(len(values) for values in columns.values())
    ragged = [name for name, values in columns.items() if len(values) != rows]
    if ragged:
        last = {name: values[-1] for name, values in columns.items() if values}
        raise ValueError(
            f"{path}: row {rows} of the _atom_site table ends before {ragged[0]} (model "
            f"{last.get('pdbx_PDB_model_num', '1')}, residue {last.get('auth_asym_id', '')} "
            f"{last.get('label_comp_id', '')} {last.get('auth_seq_id', '')}); the file is cut short"
        )
    return _needed_columns(columns, rows, path)


def _atom_section(lines: list[str]) -> str:
    """The loop of the atom table alone: other categories can be many times as long."""
    first = next(i for i, line in enumerate(lines) if line.startswith("_atom_site."))
    while first > 0 and not lines[first].startswith("loop_"):
        first -= 1
    last = len(lines)
    header = True
    for i in range(first + 1, len(lines)):
        if header and not lines[i].startswith("_atom_site."):
            header = not lines[i].strip()
        elif not header and lines[i].startswith(("#", "loop_", "_", "data_", "save_")):
            last = i
            break
    return "\n".join(["data_atoms", *lines[first:last], ""])


def _needed_columns(columns: dict[str, list[str]], rows: int, path: Path) -> dict[str, list[str]]:
    optional = {"group_PDB": "ATOM", "pdbx_PDB_model_num": "1"}
    for name in ("pdbx_PDB_ins_code", "label_alt_id", "occupancy"):
        optional[name] = "."
    table = {name: columns.get(name, [default] * rows) for name, default in optional.items()}
    either = {
        "label_atom_id": ("label_atom_id", "auth_atom_id"),
        "label_comp_id": ("label_comp_id", "auth_comp_id"),
        "chain": ("auth_asym_id", "label_asym_id"),
        "number": ("auth_seq_id", "label_seq_id"),
        "Cartn_x": ("Cartn_x",),
        "Cartn_y": ("Cartn_y",),
        "Cartn_z": ("Cartn_z",),
    }
    for name, choices in either.items():
        given = [columns[choice] for choice in choices if choice in columns]
        if not given:
            raise ValueError(f"{path}: the _atom_site table has no column {' or '.join(choices)}")
        table[name] = given[0]
    return table
