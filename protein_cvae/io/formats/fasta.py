"""FASTA: sequences without structure, as ensembles without coordinates."""

from __future__ import annotations

from pathlib import Path

import torch

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.opening import structure_bytes
from protein_cvae.residues import encode_sequence

SUFFIXES = (".fasta", ".fa", ".faa")


def sequence_ensemble(sequence: str, name: str = "protein", source: str = "sequence") -> Ensemble:
    """A sequence without structure: chain A, residues 1 to L, no coordinates.

    Args:
        sequence: letters of the 20 amino acids and X; case does not matter.
        name: of the ensemble.
        source: what messages name.

    Raises:
        ValueError: on an empty sequence or another letter.
    """
    letters = "".join(sequence.split()).upper()
    if not letters:
        raise UserError(f"{source}: the sequence is empty")
    try:
        encode_sequence(letters)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    length = len(letters)
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[-1] = False
    return Ensemble(
        name=name,
        coordinates=torch.zeros(1, length, 3, 3),
        mask=torch.zeros(1, length, dtype=torch.bool),
        sequence=letters,
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(1, length + 1),
        insertion_codes=("",) * length,
        bonded=bonded,
        source=source,
        model_numbers=(1,),
    )


def read(path: str | Path, argument: str) -> Ensemble:
    """The one sequence of a FASTA file, as :func:`sequence_ensemble`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold exactly one record of known letters.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"{argument}: no such file: {path}")
    text = structure_bytes(path).decode("latin-1")
    lines = [line.strip() for line in text.splitlines()]
    headers = [line for line in lines if line.startswith(">")]
    if len(headers) != 1 or next(line for line in lines if line) != headers[0]:
        raise UserError(
            f"{path}: expected one FASTA record, a line '>name' and then the sequence; found "
            f"{len(headers)} such lines"
        )
    letters = "".join(line for line in lines if not line.startswith(">")).removesuffix("*")
    name = headers[0][1:].split()
    return sequence_ensemble(letters, name[0] if name else path.stem, str(path))
