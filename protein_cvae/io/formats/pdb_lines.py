"""The lines of one model before gemmi parses them: what is refused and what is put right.

Refused, by line: a record cut short, and a backbone atom of a protein without a residue number or
coordinates in their columns.  Put right: residue names of four letters, which reach into the column
of a second chain letter, and residues that stand a second time, before which a TER is put.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.formats.pdb_text import ModelText
from protein_cvae.residues import WATERS, one_letter

_LAST_COORDINATE = 52  # of columns 31-54; the last two digits may be missing
_LONGEST = 80
_NUMBER = re.compile(r"\s*(-?\d+|[A-Z][0-9A-Z]{3}|[a-z][0-9a-z]{3})\s*")  # decimal or hybrid-36
_COORDINATE = re.compile(r"\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*")
# Classes of characters: in a right-aligned number they do not decrease.
_CLASSES = np.full(256, 9, dtype=np.int8)
_CLASSES[ord(" ")], _CLASSES[ord("-")], _CLASSES[ord("0") : ord("9") + 1] = 0, 1, 2


class Lines:
    """ATOM and HETATM lines of a model.

    Args:
        model: its text.

    Raises:
        ValueError: if a line ends before its coordinates; names it.
    """

    def __init__(self, model: ModelText) -> None:
        self.model = model
        self._bytes = np.frombuffer(model.text + b"\n" + b" " * _LONGEST, dtype=np.uint8)
        ends = np.flatnonzero(self._bytes == ord("\n"))
        begins = np.concatenate([[0], ends[:-1] + 1])
        word = self._bytes[begins[:, None] + np.arange(4)].view("S4")[:, 0]
        self._lines = np.flatnonzero((word == b"ATOM") | (word == b"HETA"))
        self.starts = begins[self._lines]
        self._lengths = ends[self._lines] - self.starts
        short = np.flatnonzero(self._lengths < _LAST_COORDINATE)
        if short.size:
            raise UserError(
                f"{self.where(short[0])}: the record ends before its coordinates; the file is cut "
                "short or not in columns"
            )

    def where(self, row: int) -> str:
        """File, line and beginning of the record of a row."""
        return f"{self.model.where(int(self._lines[row]))} ({self.text(row)[:27].strip()})"

    def text(self, row: int) -> str:
        """The line of a row."""
        start = int(self.starts[row])
        return bytes(self._bytes[start : start + int(self._lengths[row])]).decode("latin-1")

    def field(self, first: int, last: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(R,) bytes of columns first to last - 1, counted from 0, without spaces on the right."""
        place = self.starts[rows][:, None] + np.arange(first, last)
        return np.ascontiguousarray(self._bytes[place]).view(f"S{last - first}")[:, 0]

    def has_segments(self) -> bool:
        """Whether some line has a segment identifier, columns 73 to 76."""
        rows = np.flatnonzero(self._lengths >= 73)
        return bool((np.char.strip(self.field(72, 76, rows[:: max(1, rows.size // 1000)])) != b"")
                    .any())  # fmt: skip


def check_numbers(lines: Lines) -> None:
    """Refuse a backbone atom of a protein whose number or coordinates are not in their columns.

    Raises:
        ValueError: naming file, line, model and residue.
    """
    names, residues = lines.field(12, 16), lines.field(17, 21)
    backbone = np.logical_or.reduce([_named(names, atom) for atom in BACKBONE])
    amino = [
        word
        for word in np.unique(residues[_named(names, "CA")])
        if word.strip().decode("latin-1") not in WATERS
    ]
    rows = np.flatnonzero(backbone)
    rows = rows[np.isin(residues[rows], amino)]
    numbers = _classes(lines, rows, 22, 26)
    plain = _right_aligned(numbers)
    for first in (30, 38, 46):
        field = _classes(lines, rows, first, first + 8)
        point = lines.field(first + 4, first + 5, rows) == b"."
        plain &= _right_aligned(field[:, :4]) & point & (field[:, 5:] == 2).all(1)
    for row in rows[~plain]:
        _check_line(lines, int(row))


def _classes(lines: Lines, rows: np.ndarray, first: int, last: int) -> np.ndarray:
    place = lines.starts[rows][:, None] + np.arange(first, last)
    found: np.ndarray = _CLASSES[lines._bytes[place]]
    return found


def _right_aligned(classes: np.ndarray) -> np.ndarray:
    """(R,) whether (R, n) characters are spaces, at most one minus and at least one digit."""
    ordered = (np.diff(classes, axis=1) >= 0).all(1) & (classes[:, -1] == 2)
    return ordered & ((classes == 1).sum(1) <= 1)


def _check_line(lines: Lines, row: int) -> None:
    text = lines.text(row).ljust(_LONGEST)
    number = lines.model.number
    where = f"{lines.where(row)}: " + ("" if number is None else f"model {number}, ")
    where += f"residue {text[20:22].strip() or '-'} {text[17:20].strip()} {text[22:27].strip()}"
    if not _NUMBER.fullmatch(text[22:26]):
        raise UserError(f"{where}: residue number {text[22:26]!r} cannot be read; number it anew")
    fields = [text[30:38], text[38:46], text[46:54]]
    values = [value.strip().lower().lstrip("+-") for value in fields]
    atom = text[12:16].strip()
    if any(value in ("nan", "inf", "infinity") for value in values):
        raise UserError(
            f"{where}: atom {atom} has coordinates ({', '.join(f.strip() for f in fields)}), which "
            "are not finite; leave out atoms that have no position"
        )
    rest = text[54:60].strip()
    shifted = rest and not _COORDINATE.fullmatch(rest) and text[54] != " "
    if shifted or not all(_COORDINATE.fullmatch(field) for field in fields):
        raise UserError(
            f"{where}: atom {atom}: {text[30:60].strip()!r} are not three coordinates in columns "
            "31 to 54; beyond -999.999 or 9999.999 they do not fit: move the molecule, write mmCIF"
        )


def long_names(lines: Lines) -> dict[bytes, list[int]]:
    """Residue names of four letters, columns 18 to 21, with their rows.

    Column 21 may also hold the first of two letters of a chain: four letters are a name where they
    are one of an amino acid or water, or where the first three are no amino acid and no chain of
    two letters is known by other residues.
    """
    rows = np.flatnonzero(lines.field(20, 21) > b" ")
    if not rows.size:
        return {}
    words = lines.field(17, 22, rows)
    unique, inverse = np.unique(words, return_inverse=True)
    texts = [word.decode("latin-1").ljust(5) for word in unique]
    known = [_amino(text[:4]) for text in texts]
    chains = {
        text[3:] for text, four in zip(texts, known, strict=True) if not four and _amino(text[:3])
    }
    found: dict[bytes, list[int]] = {}
    for i, (text, four) in enumerate(zip(texts, known, strict=True)):
        if four or not (_amino(text[:3]) or text[3:] in chains):
            found.setdefault(text[:4].encode("latin-1"), []).extend(rows[inverse == i].tolist())
    return found


def _named(names: np.ndarray, atom: str) -> np.ndarray:
    """(R,) whether columns 13 to 16 hold this name, wherever in them it stands."""
    words = {atom.center(4), atom.ljust(4), atom.rjust(4), f" {atom}".ljust(4)}
    found: np.ndarray = np.logical_or.reduce([names == word.encode() for word in words])
    return found


def _amino(name: str) -> bool:
    return one_letter(name) is not None or name.strip() in WATERS


def restarts(lines: Lines) -> list[int]:
    """Rows before which a chain begins anew: CA of one chain, number and segment stood before."""
    rows = np.flatnonzero(_named(lines.field(12, 16), "CA"))
    rows = rows[np.char.strip(lines.field(17, 20, rows)) != b"CA"]
    places = np.minimum(lines.starts[rows][:, None] + np.r_[20:27, 72:76], len(lines._bytes) - 1)
    words = np.ascontiguousarray(lines._bytes[places]).view("V11")[:, 0]
    if len(np.unique(words)) == len(words):
        return []
    keys = words.tolist()
    cuts: list[int] = []
    seen: set[bytes] = set()
    previous = b""
    for row, key in zip(rows.tolist(), keys, strict=True):
        if key in seen and key != previous:
            cuts.append(_residue_start(lines, row))
            seen = set()
        seen.add(key)
        previous = key
    return cuts


def _residue_start(lines: Lines, row: int) -> int:
    residue = lines.text(row)[17:27]
    while row > 0 and lines.text(row - 1)[17:27] == residue:
        row -= 1
    return row


def prepared(model: ModelText) -> tuple[bytes, dict[bytes, bytes], bool]:
    """The text for gemmi, the residue names that stand for longer ones in it, segments or not.

    Raises:
        ValueError: as :class:`Lines` and :func:`check_numbers`.
    """
    lines = Lines(model)
    check_numbers(lines)
    text, names = model.text, dict[bytes, bytes]()
    long = long_names(lines)
    if long:
        changed = np.frombuffer(text, dtype=np.uint8).copy()
        for i, (name, rows) in enumerate(long.items()):
            token = f"~{i:02d}".encode()
            names[token] = name.strip()
            for offset, byte in enumerate(token + b" "):
                changed[lines.starts[rows] + 17 + offset] = byte
        text = changed.tobytes()
    cuts = [int(lines.starts[row]) for row in restarts(lines)]
    edges = [0, *cuts, len(text)]
    if cuts:
        text = b"TER\n".join(text[a:b] for a, b in pairwise(edges))
    return text, names, lines.has_segments()


def numbered(data: bytes) -> bytes:
    """The same text with atoms numbered in its order: decimal, then hybrid-36 from 100,000 on."""
    starts = np.append(0, np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + 1)
    changed = np.frombuffer(data + b" " * _LONGEST, dtype=np.uint8).copy()
    word = changed[starts[:, None] + np.arange(4)].view("S4")[:, 0]
    starts = starts[(word == b"ATOM") | (word == b"HETA")]
    number = np.arange(len(starts))
    base = np.where(number < 100_000, 10, 36)
    number = np.where(number < 100_000, number, number - 100_000 + 10 * 36**4)
    digits = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
    for column in range(10, 5, -1):
        changed[starts + column] = digits[number % base]
        number = number // base
    return changed[: len(data)].tobytes()
