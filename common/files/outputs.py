"""Places for results, checked before the work that makes them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import ExistingFile, MissingFile, UserError

_ALLOW = "allow to overwrite it (--overwrite, or overwrite: true)"


def check_output(
    path: Path,
    argument: str,
    *,
    overwrite: bool = True,
    allow: str = _ALLOW,
    inputs: Iterable[Path] = (),
    make_folder: bool = False,
) -> None:
    """May a file be written here?  Nothing is written, and no folder made unless asked.

    Args:
        path: the file that will be written at the end.
        argument: name of the setting it came from, for messages.
        overwrite: an existing file will be replaced.
        allow: how the user turns that on, for the message.
        inputs: files that are read meanwhile, or that must stay.
        make_folder: make the folder of ``path``, and those above it.

    Raises:
        ExistingFile: if it exists and ``overwrite`` is off.
        MissingFile: if its folder does not exist and is not to be made.
        ValueError: if it is a folder or an input, or its folder cannot be made or written to.
    """
    check_name(path, argument, overwrite=overwrite, allow=allow, inputs=inputs)
    if make_folder:
        _make(path.parent, argument)
    elif not path.parent.is_dir():
        raise MissingFile(f"folder {path.parent} of {argument} does not exist")
    _check_writable(path.parent, argument)


def check_name(
    path: Path,
    argument: str,
    *,
    overwrite: bool = True,
    allow: str = _ALLOW,
    inputs: Iterable[Path] = (),
) -> None:
    """:func:`check_output` of the name alone; its folder need not exist yet.

    Raises:
        ExistingFile: if it exists and ``overwrite`` is off.
        ValueError: if it is a folder or an input.
    """
    if path.is_dir():
        raise UserError(f"{argument} must name a file, but {path} is a folder")
    for given in inputs:
        if path.resolve() == given.resolve():
            raise UserError(f"{argument}: {path} is an input file; choose another name")
    if path.exists() and not overwrite:
        raise ExistingFile(f"{path} exists; choose another {argument} or {allow}")


def prepare_output(path: Path, argument: str) -> None:
    """:func:`check_output` of a file that may be replaced and whose folder is made."""
    check_output(path, argument, make_folder=True)


def set_aside(path: Path) -> Path:
    """Give an existing file the next free numbered name beside it, ``model_1.ckpt``; that name."""
    number = 1
    while (other := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)
    return other


def prepare_folder(path: Path, argument: str) -> None:
    """Make a folder of results, and check that files can be written there.

    Raises:
        ValueError: if ``path`` is a file, or cannot be made or written to.
    """
    _make(path, argument)
    _check_writable(path, argument)


def _make(folder: Path, argument: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{argument}: cannot make the folder {folder}: {error}") from error


def _check_writable(folder: Path, argument: str) -> None:
    if not os.access(folder, os.W_OK):
        raise UserError(f"{argument}: no permission to write in the folder {folder}")
