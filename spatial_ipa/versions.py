"""Versions of what a checkpoint holds: computations that changed refuse what was made before."""

from __future__ import annotations

from typing import Any


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
