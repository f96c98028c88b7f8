"""PDB text, model by model, as gemmi takes it; nothing is copied that is right as it is.

gemmi reads the columns of one model well and quickly, but stops at END, refuses a model number that
stands twice, reads a number that is none as 0, takes four letters of a residue name for three and a
chain, and joins residues of two chains that have one identifier.  So the text is divided into
models here, with the numbers that MODEL gives them and the cell that CRYST1 does;
:mod:`protein_cvae.io.formats.pdb_lines` sees to the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from common.errors import UserError
from protein_cvae.io.atoms import box_vectors


@dataclass(frozen=True, eq=False)
class ModelText:
    """A stretch of a file.

    Attributes:
        number: of the model; None if it has none.
        text: its lines.
        box: (3, 3) Å, or None.
        data: the whole file.
        start: where ``text`` begins in it.
        path: the file, for messages.
    """

    number: int | None
    text: bytes
    box: np.ndarray | None
    data: bytes
    start: int
    path: Path

    def where(self, line: int) -> str:
        """File and line number of a line of ``text``, counted from 0."""
        before = self.data.count(b"\n", 0, self.start)
        return f"{self.path}: line {before + line + 1}"


def model_texts(data: bytes, path: Path) -> Iterator[ModelText]:
    """The models of a file: between MODEL and ENDMDL, or up to an END that is followed by atoms.

    Raises:
        ValueError: naming the file if it has no atoms or the last model is not closed.
    """
    if data.lstrip()[:5].lower() == b"data_" and b"_atom_site." in data:
        raise UserError(f"{path}: it looks like mmCIF; call it .cif")
    cells = list(_line_starts(data, b"CRYST1"))
    found = False
    for number, start, stop in _blocks(data, path):
        text = data[start:stop]
        if not (text.startswith((b"ATOM", b"HETATM")) or b"\nATOM" in text or b"\nHETATM" in text):
            continue
        found = True
        before = [cell for cell in cells if cell < stop]
        box = _box(data[before[-1] : before[-1] + 54]) if before else None
        yield ModelText(number, text, box, data, start, path)
    if not found:
        lines = data.rstrip(b"\n").count(b"\n") + 1
        raise UserError(f"{path}: no ATOM or HETATM record in {lines} lines; it is no PDB file")


def _line_starts(data: bytes, word: bytes) -> Iterator[int]:
    """Where lines begin with a word."""
    if data.startswith(word):
        yield 0
    place = data.find(b"\n" + word)
    while place >= 0:
        yield place + 1
        place = data.find(b"\n" + word, place + 1)


def _blocks(data: bytes, path: Path) -> Iterator[tuple[int | None, int, int]]:
    """Number, first and last byte of each stretch that may be a model."""
    number: int | None = None
    start, is_open = 0, False
    for mark in sorted([*_line_starts(data, b"MODEL"), *_line_starts(data, b"END")]):
        end = data.find(b"\n", mark)
        end = len(data) if end < 0 else end
        words = data[mark:end].split()
        if words[0] not in (b"MODEL", b"END", b"ENDMDL"):
            continue
        yield number, start, mark
        number, start, is_open = None, end + 1, words[0] == b"MODEL"
        if is_open and len(words) > 1 and re.fullmatch(rb"-?\d+", words[1]):
            number = int(words[1])
    yield number, start, len(data)
    if is_open:
        last = data.rstrip().rsplit(b"\n", 1)[-1][17:27].decode("latin-1").strip()
        raise UserError(
            f"{path}: the last model is not closed by ENDMDL (last residue {last!r}); the file is "
            "cut short"
        )


def _box(line: bytes) -> np.ndarray | None:
    edges = (6, 15, 24, 33, 40, 47, 54)
    try:
        values = [float(line[a:b]) for a, b in pairwise(edges)]
    except ValueError:
        return None
    return box_vectors(np.array(values[:3]), np.array(values[3:]))
