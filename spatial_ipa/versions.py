"""Identity of what a checkpoint holds: versions of its parts, hashes of its weights.

Computations that changed refuse what was made before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Digest(Protocol):
    """A hash under way, of :mod:`hashlib`."""

    def update(self, data: bytes, /) -> None: ...


def hash_tensors(digest: Digest, tensors: Mapping[str, Tensor]) -> None:
    """Add names, shapes and values to a digest, in the order of the names."""
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def check_version(state: dict[str, Any], what: str, expected: int) -> None:
    """Refuse a part of a checkpoint that was made by another version of its computation.

    Raises:
        ValueError: naming ``what``, the version found and the one expected.
    """
    if state.get("version") != expected:
        raise ValueError(
            f"the checkpoint's {what} has version {state.get('version')!r}, expected "
            f"{expected}; train it anew"
        )
