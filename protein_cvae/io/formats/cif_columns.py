"""The atom table of an mmCIF file by columns, as gemmi's reader of CIF divides it into values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from common.errors import UserError

UNSET = (".", "?", "")
_PREFIX = "_atom_site."
_UNCERTAINTY = re.compile(r"\(\d+\)$")


class Codes(NamedTuple):
    """A column of text with few different values: those, and which of them stands in each row."""

    values: np.ndarray  # (N,) int32
    texts: list[str]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(R,) bytes of these rows; b"" where the file says unset."""
        words = [b"" if text in UNSET else text.encode("latin-1", "replace") for text in self.texts]
        found: np.ndarray = np.array(words)[self.values[rows]]
        return found


def atom_block(data: bytes, path: Path) -> gemmi.cif.Block:
    """The data block with the atom table.

    Raises:
        ValueError: if there is none, or more than one, or the text is cut short or no CIF.
    """
    text = re.sub(rb"[\x80-\xff]", b"?", data) if not data.isascii() else data
    head = text.lstrip()[:5].lower()
    if b"_atom_site." not in text and b"_atom_site." not in text.lower():
        pdb = re.search(rb"^(ATOM  |HETATM).{6} (N |CA|C ) ", text, re.MULTILINE)
        what = "it looks like a PDB file; call it .pdb" if pdb else "it is no mmCIF structure file"
        lines = text.rstrip(b"\n").count(b"\n") + 1
        raise UserError(f"{path}: no _atom_site table in {lines} lines; {what}")
    tables = len(re.findall(rb"^[ \t]*_atom_site\.cartn_x\b", text, re.MULTILINE | re.IGNORECASE))
    if tables > 1:
        raise UserError(f"{path}: {tables} _atom_site tables; write each data block to a file")
    if head != b"data_" and b"\ndata_" not in text.lower():
        text = b"data_x\n" + text
    try:
        document = gemmi.cif.read_string(_with_names(text), check_level=0)
    except (ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        cut = "Wrong number of values in loop _atom_site" in words
        what = "a row of the _atom_site table is not complete; the file is cut short" if cut else (
            f"it cannot be read as mmCIF ({words})"
        )  # fmt: skip
        raise UserError(f"{path}: {what}") from None
    for block in document:
        if block.find_mmcif_category(_PREFIX).width() > 0:
            return block
    raise UserError(f"{path}: no _atom_site table; it is no mmCIF structure file")


def _with_names(text: bytes) -> bytes:
    """Data blocks without a name, which programs write and CIF forbids, are given one."""
    return re.sub(rb"(?im)^([ \t]*data_)(?=[ \t]*$)", rb"\1x", text, count=1)


class AtomColumns:
    """Columns of the atom table.

    Args:
        block: with the table.
        path: the file, for messages.
    """

    def __init__(self, block: gemmi.cif.Block, path: Path) -> None:
        self.path = path
        tags = block.find_mmcif_category(_PREFIX).tags
        self._tags = {tag.lower().removeprefix(_PREFIX): tag for tag in tags}
        self._block = block
        self.count = len(self._column(next(iter(self._tags))))

    def codes(self, names: Sequence[str], default: str | None = None) -> Codes:
        """The first of these columns that the table has, or one of the default.

        Raises:
            ValueError: if it has none and there is no default.
        """
        name = next((name for name in names if name.lower() in self._tags), None)
        if name is None:
            if default is None:
                raise UserError(
                    f"{self.path}: the _atom_site table has no column {' or '.join(names)}"
                )
            return Codes(np.zeros(self.count, dtype=np.int32), [default])
        words = list(self._column(name.lower()))
        code = {word: number for number, word in enumerate(dict.fromkeys(words))}
        values = np.fromiter(map(code.__getitem__, words), dtype=np.int32, count=self.count)
        return Codes(
            values, [gemmi.cif.as_string(text) if len(text) > 1 else text for text in code]
        )

    def integers(
        self,
        names: Sequence[str],
        describe: Callable[[int, str], str],
        matters: np.ndarray | None = None,
    ) -> np.ma.MaskedArray:
        """(N,) int64, of the first column in which a row is set; masked where none is.

        Args:
            names: columns, all of which may be absent.
            describe: a row and its text -> the message of a value that is no integer.
            matters: (N,) bool, rows that must have an integer if they are set; None for all.
        """
        found = np.ma.masked_all(self.count, dtype=np.int64)
        for name in reversed(names):
            column = self.codes([name], default="?")
            numbers = np.zeros(len(column.texts), dtype=np.int64)
            is_set = np.array([text not in UNSET for text in column.texts])
            for i, text in enumerate(column.texts):
                if not is_set[i]:
                    continue
                try:
                    numbers[i] = int(text)
                except ValueError:
                    rows = column.values == i
                    rows = np.flatnonzero(rows if matters is None else rows & matters)
                    if rows.size:
                        raise UserError(describe(int(rows[0]), text)) from None
                    is_set[i] = False
            rows = is_set[column.values]
            found[rows] = numbers[column.values[rows]]
        return found

    def floats(
        self, name: str, rows: np.ndarray, describe: Callable[[int, str], str], unset: float
    ) -> np.ndarray:
        """(R,) float64 of these rows; ``unset`` where the file says so.

        Raises:
            ValueError: as ``describe(row, text)`` says, of a value that is no number; if the table
                has no such column and ``unset`` is not finite.
        """
        if name.lower() not in self._tags:
            if np.isfinite(unset):
                return np.full(len(rows), unset)
            raise UserError(f"{self.path}: the _atom_site table has no column {name}")
        column = self._column(name.lower())
        texts = [column[row] for row in rows.tolist()]
        try:
            return np.array(texts, dtype=np.float64)
        except ValueError:
            return np.array([
                _number(text, row, describe, unset) for text, row in zip(texts, rows, strict=True)
            ])  # fmt: skip

    def _column(self, name: str) -> gemmi.cif.Column:
        tag = self._tags[name]
        return self._block.find_values(tag)


def _number(text: str, row: int, describe: Callable[[int, str], str], unset: float) -> float:
    if text in UNSET:
        return unset
    try:
        return float(_UNCERTAINTY.sub("", text))
    except ValueError:
        raise UserError(describe(row, text)) from None
