"""The structure formats: which suffix is read and written by which file of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.formats import mmcif, pdb
from protein_cvae.io.formats.rows import FurtherAtoms


class StructureFormat(NamedTuple):
    """A format of files with several models.

    Attributes:
        suffixes: each with or without .gz.
        parse: the content, its path, for messages, and whether side chains have coordinates ->
            the atoms of each model, in turn.
        lines: an ensemble, B-factors (M, L) and the atoms behind N, CA and C -> lines of the file.
        check: of the same, and the path: refuses what the format cannot hold; None if it holds all.
    """

    suffixes: tuple[str, ...]
    parse: Callable[[bytes, Path, bool], Iterator[AtomTable]]
    lines: Callable[[Ensemble, Tensor, FurtherAtoms], Iterator[str]]
    check: Callable[[Ensemble, Tensor, FurtherAtoms, Path], None] | None = None


FORMATS = (
    StructureFormat(pdb.SUFFIXES, pdb.parse, pdb.lines, pdb.check),
    StructureFormat(mmcif.SUFFIXES, mmcif.parse, mmcif.lines),
)
SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)


def structure_format(path: Path) -> StructureFormat:
    """The format of a file, by its suffix, .gz aside.

    Raises:
        ValueError: at another suffix.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    for known in FORMATS:
        if last in known.suffixes:
            return known
    raise UserError(
        f"{path}: suffix {last or 'none'!r} is not known; expected one of "
        f"{', '.join(SUFFIXES)}, each with or without .gz"
    )
