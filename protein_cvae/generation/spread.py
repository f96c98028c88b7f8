"""The spread that the user tells: a number, a column of the input, or a file.

========  ==================================================================================
told      RMSF of a residue, Å
========  ==================================================================================
B-factor  (3 B / 8 π²)^½: B = 8 π² ⟨u²⟩ / 3 for a displacement u (Trueblood et al. 1996, Acta
          Cryst. A52, 770-781).  A crystal's B holds lattice disorder and refinement, too.
RMSF      the column itself, as ``generate`` writes it
pLDDT     1.5 e^{4 (0.7 − pLDDT / 100)}: an *error* of the predicted coordinates, estimated in
          phenix.process_predicted_model (Oeffner et al. 2022, Acta Cryst. D78, 1303-1314, after
          Hiranuma et al. 2021, Nat. Commun. 12, 1340).  No exact law leads from a confidence to
          a fluctuation: the order of residues is worth more than the sizes.
file      columns chain, residue (number and insertion code) and rmsf
========  ==================================================================================

A profile depends on what was superposed.  ``core``: the residues of at most twice the lower
quartile of the profile; ``all``: all CA, as most programs of molecular dynamics do.  Told ``all``
of a protein with long tails, the core is deformed as much as there the tails had turned it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemmi
import torch
from torch import Tensor

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import Ensemble, listed
from protein_cvae.generation.told import Told, stiff_part
from protein_cvae.io.formats import pdb
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.opening import structure_bytes

Column = Literal["b_factor", "rmsf", "plddt"]
_COLUMNS = ("b_factor", "rmsf", "plddt")
_HEAD = ("chain", "residue", "rmsf")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
Key = tuple[str, int, str]  # chain, number, insertion code


@dataclass(frozen=True)
class SpreadOptions:
    """How wide the conformers of mode ``prior`` are; one of the first three is told.

    Attributes:
        rmsd: mean pairwise CA-RMSD in Å, all residues; which of them move is the model's.
        column: what the B-factor column of the input holds: ``b_factor`` (Å²), ``rmsf`` (Å) or
            ``plddt``.
        file: .csv or .tsv file with columns chain, residue and rmsf (Å), a row for each residue.
        superposed: what the conformers of a told profile were superposed on, ``core`` or ``all``.

    Raises:
        ValueError: if none or several are told, or on a number out of range or another word.
    """

    rmsd: float | None = None
    column: Column | None = None
    file: str | None = None
    superposed: Literal["core", "all"] = "core"

    def __post_init__(self) -> None:
        told = [name for name in ("rmsd", "column", "file") if getattr(self, name) is not None]
        if len(told) != 1:
            raise UserError(
                "spread: tell one of rmsd, column and file, got " + (" and ".join(told) or "none")
            )
        if self.rmsd is not None and not (math.isfinite(self.rmsd) and self.rmsd > 0):
            raise UserError(f"spread.rmsd must be finite and positive, Å, got {self.rmsd}")
        if self.column is not None and self.column not in _COLUMNS:
            raise UserError(
                f"spread.column must be one of {', '.join(_COLUMNS)}, got {self.column!r}"
            )
        if self.superposed not in ("core", "all"):
            raise UserError(f"spread.superposed must be core or all, got {self.superposed!r}")


def told_spread(ensemble: Ensemble, options: SpreadOptions, model: int | None = None) -> Told:
    """What the options tell of an ensemble.

    Args:
        ensemble: read from a structure file where a column is told.
        options: of the spread.
        model: number of the model whose column is read; None for the first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a value is missing, not finite or out of range; names file and residue.
    """
    every = torch.ones(ensemble.length, dtype=torch.bool)
    if options.rmsd is not None:
        return Told(None, options.rmsd, every)
    if options.file is not None:
        rmsf = read_profile(Path(options.file), ensemble)
    else:
        assert options.column is not None
        rmsf = column_rmsf(_column(ensemble, model), options.column, ensemble)
    return Told(rmsf, None, stiff_part(rmsf) if options.superposed == "core" else every)


def column_rmsf(values: Tensor, column: Column, ensemble: Ensemble) -> Tensor:
    """(L,) RMSF in Å of the (L,) values of a B-factor column; see the module.

    Raises:
        ValueError: naming the residue whose value cannot be one of the column.
    """
    most = 100.0 if column == "plddt" else math.inf
    bad = ~torch.isfinite(values) | (values < 0) | (values > most)
    if bool(bad.any()):
        i = int(bad.nonzero()[0, 0])
        raise UserError(
            f"{ensemble.source}: spread.column {column}: residue {ensemble.label(i)} has "
            f"{float(values[i]):g}, expected " + ("0 to 100" if column == "plddt" else "0 or more")
        )
    if not bool((values > 0).any()):
        raise UserError(
            f"{ensemble.source}: spread.column {column}: the B-factor column of CA is 0 everywhere"
        )
    if column == "b_factor":
        return (3 * values / (8 * math.pi**2)).sqrt()
    if column == "plddt":
        share = values if float(values.max()) <= 1 else values / 100  # some write 0 to 1
        return 1.5 * (4 * (0.7 - share)).exp()
    return values


def read_profile(path: Path, ensemble: Ensemble) -> Tensor:
    """(L,) RMSF in Å from a .csv or .tsv file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file, line or residue of what is wrong.
    """
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        raise UserError(f"spread.file: {path}: expected a file called .csv or .tsv")
    if not path.is_file():
        raise MissingFile(f"spread.file: no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error})") from None
    rows = csv.reader(text.splitlines(), delimiter=separator)
    head = [cell.strip().lower() for cell in next(rows, [])]
    if any(head.count(name) != 1 for name in _HEAD):
        raise UserError(
            f"{path}: the first line must name the columns {', '.join(_HEAD)} once each, got "
            f"{', '.join(head) or 'nothing'}"
        )
    found: dict[Key, float] = {}
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            raise UserError(f"{path}, line {line}: expected {len(head)} values, got {len(row)}")
        chain, residue, value = (row[head.index(name)].strip() for name in _HEAD)
        key = _key(chain, residue, f"{path}, line {line}")
        if key in found:
            raise UserError(f"{path}, line {line}: residue {chain} {residue} stands twice")
        found[key] = _rmsf(value, f"{path}, line {line}, residue {chain} {residue}")
    keys = _keys(ensemble)
    unknown = [f"{key[0]} {key[1]}{key[2]}" for key in found if key not in set(keys)]
    if unknown:
        raise UserError(
            f"{path}: {ensemble.source} has no residue {listed(unknown, 4)} among those taken "
            f"(chain {', '.join(ensemble.chain_ids)}); leave such lines out, or take other chains"
        )
    return _ordered(found, ensemble, str(path))


def _key(chain: str, residue: str, where: str) -> Key:
    digits = residue.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    code = residue[len(digits) :]
    if not digits.lstrip("-").isdecimal() or len(code) > 1:
        raise UserError(
            f"{where}: residue must be a number, with an insertion code where it has one, such "
            f"as 15 or 15A, got {residue!r}"
        )
    return chain, int(digits), code


def _rmsf(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: rmsf must be a finite number, 0 or more, got {text!r}")
    return value


def _keys(ensemble: Ensemble) -> list[Key]:
    chains = [ensemble.chain_ids[i] for i in ensemble.chain_index.tolist()]
    numbers = ensemble.residue_numbers.tolist()
    return list(zip(chains, numbers, ensemble.insertion_codes, strict=True))


def _ordered(found: Mapping[Key, float], ensemble: Ensemble, where: str) -> Tensor:
    keys = _keys(ensemble)
    missing = [ensemble.label(i) for i, key in enumerate(keys) if key not in found]
    if missing:
        raise UserError(f"{where}: no value for {len(missing)} residues: {listed(missing, 4)}")
    return torch.tensor([found[key] for key in keys])


def _column(ensemble: Ensemble, model: int | None) -> Tensor:
    """(L,) B-factors of CA, of one model."""
    path = Path(ensemble.source)
    if not path.is_file():
        raise UserError(
            f"{ensemble.source}: spread.column needs one PDB or mmCIF file as input; give the "
            "profile as spread.file"
        )
    kind, data = structure_format(path), structure_bytes(path).decode("latin-1")
    try:
        if kind.parse is pdb.parse:
            structure = gemmi.read_pdb_string(data)
        else:
            structure = gemmi.make_structure_from_block(gemmi.cif.read_string(data)[0])
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: the B-factor column cannot be read ({error})") from None
    models = [m for m in structure if model is None or m.num == model] or list(structure)
    found: dict[Key, float] = {}
    for chain in models[0] if models else ():
        for residue in chain:
            for atom in residue:
                if atom.name == "CA" and atom.element == gemmi.Element("C"):
                    code = residue.seqid.icode.strip()
                    number = residue.seqid.num or 0  # of residues that are read, there is one
                    found.setdefault((chain.name, number, code), atom.b_iso)
    return _ordered(found, ensemble, f"{path}: spread.column")
