"""Lists that may be given as one value: one path on the command line is a list of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

Texts: TypeAlias = list[str] | str
"""Several texts or one, for an option: the list comes first, or every list were read as a text."""

FrozenTexts: TypeAlias = tuple[str, ...] | str
"""The same for an option of frozen settings."""


def one_or_several(given: Any) -> list[Any]:
    """A list of what was given: the items of a collection, else the one thing itself, as a text."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    return list(given) if several else [given]
