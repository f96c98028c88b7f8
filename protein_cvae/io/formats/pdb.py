"""PDB text to residue records, by Biopython's parser.

Before the text is parsed, lines that no backbone needs are blanked (line numbers stay), which makes
reading several times faster and keeps the parser's remarks about headers out of the way.  What the
parser would pass over in silence is refused here: a line or file cut short, atoms after END.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from Bio.PDB import PDBParser
from Bio.PDB.PDBExceptions import PDBConstructionException

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.records import ModelRecords, RecordBuilder

ATOM_RECORDS = ("ATOM  ", "HETATM")
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
