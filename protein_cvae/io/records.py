"""What a file says of one model, residue by residue, before anything is decided about it.

Records hold rows of the atom table, not coordinates.  A residue is recorded if its name is that of
an amino acid, or if it has N, CA and C, whatever it is called; of others (waters, ions, lipids,
ligands, caps) only the names are kept, so that they may have any number.  What no later step could
make sense of is refused here, with file, model and residue: an atom given twice, two names under
one number, coordinates that are not numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.chains import Member, divide
from protein_cvae.residues import CAPS, IONS, TERMINAL_ATOMS, WATERS, cut_letters, one_letter

_CODES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class ResidueKey(NamedTuple):
    """What identifies a residue in all models of a file."""

    chain: str
    number: int
    insertion: str = ""  # "" if none
    part: int = 0  # of several chains under one identifier
    group: str = ""  # name of a residue that stands alone and may have the number of another

    @property
    def unit(self) -> tuple[str, int]:
        """What identifies its chain."""
        return self.chain, self.part


class AtomRecord(NamedTuple):
    """Row in the atom table, and occupancy."""

    row: int
    occupancy: float


@dataclass(slots=True)
class Variant:
    """The atoms of a residue that share an alternate location identifier ("" for none)."""

    name: str
    atoms: dict[str, AtomRecord] = field(default_factory=dict)


@dataclass(slots=True)
class ResidueRecord:
    """One residue of one model.

    Attributes:
        hetero: it stands in HETATM records.
        variants: its backbone atoms, by alternate location.
        atoms: names of all its atoms, where they matter.
        spans: first row of its atoms and the one behind the last, of each stretch of it.
    """

    hetero: bool
    variants: dict[str, Variant] = field(default_factory=dict)
    atoms: frozenset[str] = frozenset()
    spans: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class ModelRecords:
    """One model.

    Attributes:
        number: in the file.
        xyz: (A, 3) float64 Å, of the rows.
        source: the file it comes from.
        names: (A,) atom names, of the rows.
        altlocs: (A,) alternate locations, b"" for none.
        box: (3, 3) Å, or None.
        residues: in file order.
        dropped: names of the residues that cannot be of a chain.
        coded: residues whose insertion code was given here, not by the file.
    """

    number: int
    xyz: np.ndarray
    source: Path
    names: np.ndarray
    altlocs: np.ndarray
    box: np.ndarray | None = None
    residues: dict[ResidueKey, ResidueRecord] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    coded: list[ResidueKey] = field(default_factory=list)


def residue_label(key: ResidueKey, name: str) -> str:
    """Chain, residue name and number, e.g. "A MSE 12B"; "-" for a blank chain."""
    return f"{key.chain or '-'} {name or '?'} {key.number}{key.insertion}"


def all_records(tables: Iterable[AtomTable], path: Path) -> list[ModelRecords]:
    """The records of all models; models of the same atoms share theirs.

    Raises:
        ValueError: as :func:`model_records`.
    """
    found: list[ModelRecords] = []
    last: AtomTable | None = None
    for table in tables:
        if last is None or not _same_atoms(last, table):
            found.append(model_records(table, path))
            last = replace(table, xyz=table.xyz[:0])  # for comparison, without its coordinates
            continue
        _check_finite(table, f"{path}: model {table.number}")
        found.append(replace(found[-1], number=table.number, xyz=table.xyz.copy(), box=table.box))
    return found


def _same_atoms(a: AtomTable, b: AtomTable) -> bool:
    """Whether two models differ in their coordinates alone, or in occupancies without a choice."""
    names = ("name", "residue", "chain", "piece", "segment", "resnum", "icode", "altloc", "hetero")
    if not all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names):
        return False
    return not (a.altloc != b"").any() or np.array_equal(a.occupancy, b.occupancy)


def _check_finite(table: AtomTable, where: str) -> None:
    """Refuse backbone atoms of amino acids whose coordinates are not finite."""
    bad = np.flatnonzero(~np.isfinite(table.xyz).all(1))
    backbone = [name.encode() for name in BACKBONE]
    for row in bad[np.isin(table.name[bad], backbone)].tolist():
        name = table.residue[row].decode()
        if one_letter(name) is not None:
            chain = table.chain[row].decode() or "-"
            place = f"{table.resnum[row]}{table.icode[row].decode()}"
            raise UserError(_not_finite(f"{where}, residue {chain} {name} {place}", table, row))


def _not_finite(label: str, table: AtomTable, row: int) -> str:
    xyz = ", ".join(map(str, table.xyz[row].tolist()))
    return (
        f"{label}: atom {table.name[row].decode()} has coordinates ({xyz}), which are not finite; "
        "leave out atoms that have no position"
    )


def model_records(table: AtomTable, path: Path) -> ModelRecords:
    """The records of a model.

    Raises:
        ValueError: naming file, model and residue, if an atom is given twice, two residues have
            one number, or coordinates are not finite.
    """
    where = f"{path}: model {table.number}"
    records, members, dropped = _residues(table, where)
    division = divide(members, table.xyz, table.box, table.bonded, where)
    found = ModelRecords(
        table.number, table.xyz, path, table.name, table.altloc, table.box, dropped=dropped
    )
    for record, member, part, alone in zip(
        records, members, division.parts, division.alone, strict=True
    ):
        record.hetero |= alone
        group = member.name if alone else ""
        key = ResidueKey(member.chain, member.number, member.insertion, part, group)
        if key in found.residues and not table.coded:
            codes = (key._replace(insertion=code) for code in _CODES)
            key = next((code for code in codes if code not in found.residues), key)
            found.coded.append(key)
        known = found.residues.setdefault(key, record)
        if known is not record:
            _merge(known, record, member, where)
    return found


def _merge(known: ResidueRecord, record: ResidueRecord, member: Member, where: str) -> None:
    """Put two stretches of one residue together, other alternate locations above all."""
    for location, variant in record.variants.items():
        own = known.variants.setdefault(location, Variant(variant.name))
        if own.name != variant.name:
            raise UserError(
                f"{where}, residue {member.label}: two residues have this number, {own.name} and "
                f"{variant.name}; give one of them an insertion code or a chain of its own"
            )
        for atom, at in variant.atoms.items():
            _add(own, location, atom, at, f"{where}, residue {member.label}")
    known.atoms |= record.atoms
    known.spans += record.spans


def _add(variant: Variant, location: str, atom: str, at: AtomRecord, where: str) -> None:
    if atom in variant.atoms:
        raise UserError(
            f"{where}: atom {atom} is given twice"
            + (f" for alternate location {location}" if location else "")
            + "; a duplicated residue, or two chains or models under one identifier: give each "
            "its own chain ID or MODEL record"
        )
    variant.atoms[atom] = at


def _residues(table: AtomTable, where: str) -> tuple[list[ResidueRecord], list[Member], set[str]]:
    """Records and members of the residues that may be of a chain, and names of the others."""
    starts = _starts(table)
    stops = np.append(starts[1:], len(table))
    backbone = np.flatnonzero(np.isin(table.name, [name.encode() for name in BACKBONE]))
    bounds = np.searchsorted(backbone, np.append(starts, len(table))).tolist()
    columns = (table.residue, table.chain, table.segment, table.icode)
    names, chains, segments, codes = (_texts(column[starts]) for column in columns)
    atoms, altlocs = _texts(table.name[backbone]), _texts(table.altloc[backbone])
    rows, full = backbone.tolist(), table.occupancy[backbone].tolist()
    finite = np.isfinite(table.xyz[backbone]).all(1).tolist()
    numbers, pieces = table.resnum[starts].tolist(), table.piece[starts].tolist()
    hetero = table.hetero[starts].tolist()
    ends = _terminal(table, starts)
    records, members, dropped = [], [], set()
    for i, name in enumerate(names):
        first, last = bounds[i], bounds[i + 1]
        if not _may_be_of_a_chain(name, set(atoms[first:last])):
            dropped.add(name)
            continue
        variants: dict[str, Variant] = {}
        label = f"{where}, residue {chains[i] or '-'} {name} {numbers[i]}{codes[i]}"
        taken: dict[str, int] = {}
        for a in range(first, last):
            if not finite[a]:
                raise UserError(_not_finite(label, table, rows[a]))
            variant = variants.get(altlocs[a])
            if variant is None:
                variant = variants[altlocs[a]] = Variant(name)
            _add(variant, altlocs[a], atoms[a], AtomRecord(rows[a], full[a]), label)
            taken.setdefault(atoms[a], rows[a])
        matter = bool(cut_letters(name))
        others = frozenset(_texts(table.name[starts[i] : stops[i]])) if matter else frozenset()
        span = (int(starts[i]), int(stops[i]))
        found = variants or {"": Variant(name)}
        records.append(ResidueRecord(hetero[i], found, others, [span]))
        members.append(
            Member(
                chains[i], segments[i], pieces[i], numbers[i], codes[i], name,
                (taken.get("N", -1), taken.get("CA", -1), taken.get("C", -1)),
                frozenset(variants), bool(ends[i]),
            )
        )  # fmt: skip
    return records, members, dropped


def _may_be_of_a_chain(name: str, atoms: set[str]) -> bool:
    """Of an amino acid by its name, or by its atoms; caps have names of residues that are cut."""
    if len(atoms) == len(BACKBONE):
        return name not in WATERS
    known = one_letter(name) is not None
    return known and name not in WATERS | IONS | CAPS


def _starts(table: AtomTable) -> np.ndarray:
    """First rows of residues."""
    changes = np.zeros(max(len(table) - 1, 0), dtype=bool)
    for column in (table.resnum, table.residue, table.icode, table.chain, table.piece,
                   table.segment):  # fmt: skip
        changes |= column[1:] != column[:-1]
    return np.append(0, np.flatnonzero(changes) + 1)[: len(table)]


def _terminal(table: AtomTable, starts: np.ndarray) -> np.ndarray:
    """(R,) bool: residues with an oxygen that only a C-terminus has."""
    found = np.zeros(len(starts), dtype=bool)
    oxygens = np.flatnonzero(np.isin(table.name, [name.encode() for name in TERMINAL_ATOMS]))
    found[np.searchsorted(starts, oxygens, side="right") - 1] = True
    return found


def _texts(column: np.ndarray) -> list[str]:
    """Bytes as text without spaces, each different one decoded once."""
    words = column.tolist()
    known = {word: word.decode("latin-1").strip() for word in set(words)}
    return [known[word] for word in words]
