"""Files that are complete or absent: written under a temporary name, renamed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, renamed to ``path`` when the block ends.

    A reader sees the previous file or the new one, never a part of it.  If the block raises, what
    was written is removed and ``path`` stays as it was.  The name holds the process's id: two
    processes may write the same ``path``, and the last one to finish wins.

    Args:
        path: the file; its folder must exist.  A folder can be written the same way, as long as
            ``path`` does not exist yet.

    Yields:
        The path to write to; it does not exist yet.

    Raises:
        FileNotFoundError: if the block ends without having written anything.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _remove(temporary)  # of an earlier process with the same id that was killed
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
