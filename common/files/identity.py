"""Identity of what a checkpoint holds: its class, versions of its parts, hashes of its weights.

Computations that changed refuse what was made before.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.errors import UserError


def tensor_hash(tensors: Mapping[str, Tensor], prefix: bytes = b"") -> str:
    """SHA-256 of ``prefix`` and of names, shapes and values, in the order of the names."""
    digest = hashlib.sha256(prefix)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_version(state: dict[str, Any], what: str, expected: int) -> None:
    """Refuse a part of a checkpoint that was made by another version of its computation.

    Raises:
        ValueError: naming ``what``, the version found and the one expected.
    """
    if state.get("version") != expected:
        raise UserError(
            f"the checkpoint's {what} has version {state.get('version')!r}, expected "
            f"{expected}; train it anew"
        )


def resolve_class(class_path: str) -> type | None:
    """The class that a dotted path names, or None if there is no such class any more.

    A path of an earlier layout, whose module is gone or no longer holds the class, is looked up by
    the class's name among the public names of its top package: files may move, such names stay.

    Raises:
        ImportError: if the module is there and fails to import.
    """
    module, _, name = class_path.rpartition(".")
    for place in dict.fromkeys((module, module.partition(".")[0])):
        if not place:
            continue
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            continue
        if isinstance(found, type):
            return found
    return None
