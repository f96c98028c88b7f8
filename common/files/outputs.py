"""Places for results, checked before the work that makes them."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import UserError


def prepare_output(path: Path, argument: str) -> None:
    """Make the folder of ``path`` and check that a file can be written there.

    Args:
        path: the file that will be written at the end.
        argument: name of the setting it came from, for messages.

    Raises:
        ValueError: if ``path`` is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise UserError(f"{argument} must name a file, but {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{argument}: cannot make the folder {path.parent}: {error}") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{argument}: no permission to write in the folder {path.parent}")
