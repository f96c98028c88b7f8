"""Structure files to bytes: compressed or not, whatever a text editor made of their ends of lines.

What comes out has "\\n" between lines, as many of them as the file has, so that line numbers are
the file's, and no byte order mark: neither at the start nor where files that had one were joined.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from common.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_WIDE = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def structure_bytes(path: Path) -> bytes:
    """The content of a file, uncompressed, in one byte per character of structure formats.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, is empty, cannot be decompressed, or its name and content
            disagree on compression.
    """
    if path.is_dir():
        raise UserError(
            f"{path}: a folder; give a file, or a folder to find_ensembles or "
            "load_trajectory_folder"
        )
    data = _plain(decompressed(path))
    if not data or data.isspace():
        raise UserError(f"{path}: the file is empty; download or write it again")
    return data


def decompressed(path: Path) -> bytes:
    """The content of a file whose name ends in .gz if and only if it is gzip-compressed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decompressed, or its name and content disagree.
    """
    data = path.read_bytes()
    if path.suffix.lower() != ".gz":
        if data.startswith(_GZIP_MAGIC):
            raise UserError(f"{path}: gzip-compressed but not called .gz; add .gz to its name")
        return data
    if data and not data.startswith(_GZIP_MAGIC):
        raise UserError(f"{path}: called .gz but not gzip-compressed; remove .gz from its name")
    try:
        return gzip.decompress(data) if data else b""
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: the gzip stream is damaged or cut short ({error}); download it again"
        ) from None


def _plain(data: bytes) -> bytes:
    for mark, encoding in _WIDE.items():
        if data.startswith(mark):
            data = data.decode(encoding, "replace").encode("ascii", "replace")
    if codecs.BOM_UTF8 in data:
        data = data.replace(codecs.BOM_UTF8, b"")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data
