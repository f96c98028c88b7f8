"""Lists that may be given as one value: one path on the command line is a list of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

Texts: TypeAlias = list[str] | str
"""Several texts or one, for an option: the list comes first, or every list were read as a text."""

Item = TypeVar("Item")


def one_or_several(given: Sequence[Item] | Item) -> list[Item]:
    """A list of what was given: the items of a list or tuple, else the one thing itself."""
    if isinstance(given, list | tuple):
        return list(given)
    return [given]  # type: ignore[list-item]
