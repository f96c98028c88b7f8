"""Structures of the Protein Data Bank by their identifiers (needs a network)."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import shutil
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Literal

from Bio.PDB import PDBList

from common.errors import UserError
from common.files.atomic import atomic_path

PDB_PREFIX = "pdb:"  # of an entry's identifier where a path may stand too
_FORMATS = {"mmcif": ("mmCif", ".cif.gz"), "pdb": ("pdb", ".pdb.gz")}


def download_structure(
    pdb_id: str,
    folder: str | Path,
    *,
    file_format: Literal["mmcif", "pdb"] = "mmcif",
    server: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Fetch one entry and store it gzip-compressed as ``<id>.cif.gz`` or ``<id>.pdb.gz``.

    Args:
        pdb_id: four characters, a digit first, e.g. "2sdf"; any case.
        folder: where to store it; made if it does not exist.
        file_format: "mmcif", which every entry has, or "pdb".
        server: base address of a mirror of the archive; the wwPDB's if None.
        overwrite: fetch it even if the file is there.

    Returns:
        The file, complete: it is written under another name and renamed.

    Raises:
        ValueError: if ``pdb_id`` is no identifier or ``file_format`` is unknown.
        ConnectionError: if the archive cannot be reached or has no such entry in this format.
    """
    if not re.fullmatch(r"[0-9][A-Za-z0-9]{3}", pdb_id):
        raise UserError(
            f"pdb_id: expected four characters, a digit and three letters or digits, got {pdb_id!r}"
        )
    if file_format not in _FORMATS:
        raise UserError(f"file_format: expected one of {sorted(_FORMATS)}, got {file_format!r}")
    kind, suffix = _FORMATS[file_format]
    target = Path(folder) / f"{pdb_id.lower()}{suffix}"
    if target.exists() and not overwrite:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = _fetch(pdb_id, kind, scratch, server)
        with (
            atomic_path(target) as path,
            open(fetched, "rb") as source,
            gzip.open(path, "wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
    return target


def _fetch(pdb_id: str, kind: str, scratch: str, server: str | None) -> Path:
    said = io.StringIO()  # PDBList reports a failed download on standard output alone
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            archive = PDBList(pdb=scratch, obsolete_pdb=scratch, verbose=False)
            if server is not None:
                archive.pdb_server = server.rstrip("/")
            path = archive.retrieve_pdb_file(pdb_id, pdir=scratch, file_format=kind)
    except (OSError, EOFError, zlib.error) as error:  # no network, or a damaged stream
        raise ConnectionError(f"{pdb_id}: download as {kind} failed ({error})") from None
    if path is None or not Path(path).is_file():
        reason = " ".join(said.getvalue().split()) or "no file came"
        raise ConnectionError(
            f"{pdb_id}: download as {kind} failed ({reason}); check the network, the identifier, "
            "and whether the entry exists in this format"
        )
    return Path(path)
