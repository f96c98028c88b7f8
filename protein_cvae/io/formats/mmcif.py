"""mmCIF: text to residue records, by Biopython's dictionary reader, and ensembles to lines.

Only the atom table is read and written.  Refused are columns of unequal length (the file is cut
short), more than one table, and a model whose rows stand in two places.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.formats import rows
from protein_cvae.io.formats.pdb import ATOM_RECORDS
from protein_cvae.io.records import ModelRecords, RecordBuilder

SUFFIXES = (".cif", ".mmcif")
_COLUMNS = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id",
    "label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y",
    "Cartn_z", "occupancy", "B_iso_or_equiv", "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num",
)  # fmt: skip
_UNASSIGNED = (".", "?", "")


def parse(text: str, path: Path) -> list[ModelRecords]:
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
                raise UserError(
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
            raise UserError(f"{builder.where()}: atom {name}: {error}") from None
        builder.init_atom(name, xyz, 0.0, full, "" if altloc in _UNASSIGNED else altloc)
    return builder.get_structure()


def _integer(text: str, what: str, builder: RecordBuilder) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"{builder.where()} or the one after it: {what} is {text!r}, not an integer"
        ) from None


def _atom_table(text: str, path: Path) -> dict[str, list[str]]:
    """The columns that are needed, all of one length, by their names without "_atom_site."."""
    given = text.splitlines()
    starts = sum(line.strip() == "_atom_site.Cartn_x" for line in given)
    if starts == 0:
        pdb = any(line[:6] in ATOM_RECORDS and line[12:16].strip() in BACKBONE for line in given)
        what = "it looks like a PDB file; call it .pdb" if pdb else "it is no mmCIF structure file"
        raise UserError(f"{path}: no _atom_site table in {len(given)} lines; {what}")
    if starts > 1:
        raise UserError(f"{path}: {starts} _atom_site tables; write each data block to a file")
    try:
        found = MMCIF2Dict(io.StringIO(_atom_section(given)))
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise UserError(f"{path}: the _atom_site table cannot be read ({error})") from None
    columns = {
        name.removeprefix("_atom_site."): values
        for name, values in found.items()
        if name.startswith("_atom_site.")
    }
    count = max(len(values) for values in columns.values())
    ragged = [name for name, values in columns.items() if len(values) != count]
    if ragged:
        last = {name: values[-1] for name, values in columns.items() if values}
        raise UserError(
            f"{path}: row {count} of the _atom_site table ends before {ragged[0]} (model "
            f"{last.get('pdbx_PDB_model_num', '1')}, residue {last.get('auth_asym_id', '')} "
            f"{last.get('label_comp_id', '')} {last.get('auth_seq_id', '')}); the file is cut short"
        )
    return _needed_columns(columns, count, path)


def _atom_section(lines: list[str]) -> str:
    """The loop of the atom table alone, without the rows of atoms that no backbone needs.

    Other categories can be many times as long, and splitting a row at white space is much faster
    than reading it as mmCIF.  A row that may not be one row of plain words is always kept.
    """
    first = next(i for i, line in enumerate(lines) if line.startswith("_atom_site."))
    head = first
    while head > 0 and not lines[head].startswith("loop_"):
        head -= 1
    kept = ["data_atoms", *lines[head:first]]
    header = 0
    while first + header < len(lines) and (
        lines[first + header].startswith("_atom_site.") or not lines[first + header].strip()
    ):
        header += 1
    names = [line.split()[0] for line in lines[first : first + header] if line.strip()]
    columns = [name.removeprefix("_atom_site.") for name in names]
    kept += lines[first : first + header]
    needed = ["label_atom_id", "label_comp_id", "auth_asym_id", "auth_seq_id"]
    needed += ["pdbx_PDB_ins_code", "pdbx_PDB_model_num"]
    place = [columns.index(name) for name in needed if name in columns]
    plain = "label_atom_id" in columns and "auth_seq_id" in columns
    previous: list[str] = []
    for line in lines[first + header :]:
        if line.startswith(("#", "loop_", "_", "data_", "save_")):
            break
        words = line.split()
        if plain and len(words) == len(columns) and "'" not in line and '"' not in line:
            atom, *residue = (words[p] for p in place)
            if atom not in BACKBONE and residue == previous:
                continue
            previous = residue
        kept.append(line)
    return "\n".join([*kept, ""])


def _needed_columns(columns: dict[str, list[str]], count: int, path: Path) -> dict[str, list[str]]:
    optional = {"group_PDB": "ATOM", "pdbx_PDB_model_num": "1"}
    for name in ("pdbx_PDB_ins_code", "label_alt_id", "occupancy"):
        optional[name] = "."
    table = {name: columns.get(name, [default] * count) for name, default in optional.items()}
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
            raise UserError(f"{path}: the _atom_site table has no column {' or '.join(choices)}")
        table[name] = given[0]
    return table


def lines(ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None) -> Iterator[str]:
    """Lines of all models; arguments as of ``write_ensemble``."""
    residues = rows.residue_fields(ensemble)
    chains = ensemble.chain_index
    label = [int((chains[:i] == chains[i]).sum()) + 1 for i in range(ensemble.length)]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in ensemble.name)
    yield f"data_{safe or 'ensemble'}"
    yield "#"
    yield f"_entry.id {_quoted(safe or 'ensemble')}"
    yield "#"
    yield "loop_"
    yield from (f"_atom_site.{column}" for column in _COLUMNS)
    serial = 0
    for m, number in enumerate(rows.numbers(ensemble)):
        for i, atom, (x, y, z), value in rows.atoms(ensemble, b_factor, oxygen, m):
            serial += 1
            name, chain, residue_number, code = residues[i]
            asym = _quoted(chain)
            yield (
                f"ATOM {serial} {atom[0]} {atom} . {name} {asym} {int(chains[i]) + 1} {label[i]} "
                f"{code or '?'} {x:.5f} {y:.5f} {z:.5f} 1.00 {value:.4f} {residue_number} {asym} "
                f"{number}"
            )
    yield "#"


def _quoted(word: str) -> str:
    """A value as mmCIF writes it: in quotes where the bare word would mean something else."""
    special = word.lower().startswith(
        ("data_", "loop_", "save_", "_", "#", "$", "'", '"', "[", ";")
    )
    return f'"{word}"' if special or word in (".", "?") else word
