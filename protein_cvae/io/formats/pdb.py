"""PDB: text to residue records, by Biopython's parser, and ensembles to lines.

Before the text is parsed, lines that no backbone needs are blanked (line numbers stay), which makes
reading several times faster and keeps the parser's remarks about headers out of the way.  What the
parser would pass over in silence is refused here: a line or file cut short, atoms after END.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from Bio.PDB import PDBParser
from Bio.PDB.PDBExceptions import PDBConstructionException
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.formats import rows
from protein_cvae.io.records import ModelRecords, RecordBuilder

SUFFIXES = (".pdb", ".ent")
ATOM_RECORDS = ("ATOM  ", "HETATM")
_LAST_COORDINATE = 54  # columns 31-54 hold x, y and z


def parse(text: str, path: Path) -> list[ModelRecords]:
    """The models of a PDB text.

    Args:
        text: the whole file.
        path: its name, for messages.

    Raises:
        ValueError: names file, line, model and residue if the text is not a PDB file, is cut
            short, or holds what cannot be read.
    """
    kept = _backbone_lines(text.splitlines(), path)
    builder = RecordBuilder(path)
    parser = PDBParser(PERMISSIVE=True, QUIET=True, structure_builder=builder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # blank occupancies and B-factors, which are not used
        try:
            models: list[ModelRecords] = parser.get_structure("", io.StringIO("\n".join(kept)))
        except PDBConstructionException as error:
            raise UserError(f"{builder.where()} or the one after it: {error}") from None
        except (ValueError, IndexError) as error:
            if str(error).startswith(str(path)):
                raise
            raise UserError(
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
        if record in ATOM_RECORDS:
            atoms += 1
            if ended:
                raise UserError(
                    f"{path}: line {i + 1} ({line[:27].strip()}): atoms after END in line {ended}; "
                    "separate models by MODEL and ENDMDL, not by END"
                )
            if len(line.rstrip()) < _LAST_COORDINATE - 2:
                raise UserError(
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
        raise UserError(f"{path}: no ATOM or HETATM record in {len(lines)} lines; {what}")
    if model_open:
        raise UserError(
            f"{path}: the last model is not closed by ENDMDL (last residue {residue.strip()!r}); "
            "the file is cut short"
        )
    return kept


def _is_mmcif(lines: list[str]) -> bool:
    return any(line.startswith(("data_", "_atom_site.")) for line in lines)


def check(ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None, path: Path) -> None:
    """Refuse what PDB's columns cannot hold."""
    advice = "it does not fit the columns of PDB; write .cif"
    for chain in ensemble.chain_ids:
        if len(chain) != 1:
            raise UserError(f"{path}: chain ID {chain!r}: {advice}")
    numbers = ensemble.residue_numbers
    for i in ((numbers < -999) | (numbers > 9999)).nonzero()[:, 0].tolist():
        raise UserError(f"{path}: residue {ensemble.label(i)}: {advice}")
    for i, code in enumerate(ensemble.insertion_codes):
        if len(code) > 1:
            raise UserError(f"{path}: residue {ensemble.label(i)}: insertion code: {advice}")
    for number in rows.numbers(ensemble):
        if not 0 <= number <= 9999:
            raise UserError(f"{path}: model number {number}: {advice}")
    if ensemble.length * 4 + len(ensemble.chain_ids) > 99_999:
        raise UserError(f"{path}: {ensemble.length} residues have too many atoms: {advice}")
    everything = ensemble.coordinates.detach().cpu()
    if oxygen is not None:
        everything = torch.cat([everything, oxygen.detach().cpu()[:, :, None]], dim=2)
    outside = ((everything < -999.999) | (everything > 9999.999)).any(-1).any(-1)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        raise UserError(f"{path}: {rows.where(ensemble, m, i)}: a coordinate: {advice}")
    outside = (b_factor < -99.99) | (b_factor > 999.99)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        value = float(b_factor[m, i])
        raise UserError(f"{path}: {rows.where(ensemble, m, i)}: b_factor {value:.2f}: {advice}")


def lines(ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None) -> Iterator[str]:
    """Lines of all models; arguments as of ``write_ensemble``."""
    residues = rows.residue_fields(ensemble)
    chains = ensemble.chain_index.tolist()
    for m, number in enumerate(rows.numbers(ensemble)):
        yield f"MODEL     {number:4d}"
        serial, previous = 0, None
        for i, atom, (x, y, z), value in rows.atoms(ensemble, b_factor, oxygen, m):
            if previous is not None and chains[i] != chains[previous]:
                serial += 1
                yield _ter(serial, *residues[previous])
            serial, previous = serial + 1, i
            name, chain, residue_number, code = residues[i]
            yield (
                f"ATOM  {serial:5d}  {atom:<3s} {name:>3s} {chain}{residue_number:4d}{code or ' '}"
                f"   {x:8.3f}{y:8.3f}{z:8.3f}  1.00{value:6.2f}          {atom[0]:>2s}  "
            )
        assert previous is not None
        yield _ter(serial + 1, *residues[previous])
        yield "ENDMDL"
    yield "END   "  # all six columns: Biopython does not know the bare word


def _ter(serial: int, name: str, chain: str, number: int, code: str) -> str:
    return f"TER   {serial:5d}      {name:>3s} {chain}{number:4d}{code or ' '}"
