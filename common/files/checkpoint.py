"""Checkpoints that users hand in, read without running code that they may hold."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.errors import MissingFile, UserError


def read_checkpoint(path: Path, *, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU; tensors and plain types only.

    Args:
        path: the file.
        mmap: leave tensors in the file until they are used; it must not change meanwhile.

    Raises:
        MissingFile: if there is no such file.
        UserError: if it is damaged, no such archive, or holds other objects.
    """
    if not path.is_file():
        raise MissingFile(f"no such file: {path}")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged, or no checkpoint: it is not the archive that torch.save writes"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds objects other than tensors and plain types; they are not loaded, since "
            "unpickling runs code of whoever wrote the file"
        ) from error
    except Exception as error:  # a damaged archive raises errors of all kinds
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__})") from error
