"""Spots beside the tissue, which some files keep: whole arrays of Visium, as CELLxGENE wants them.

They are told by a column of ``obs``, ``in_tissue`` in most files, which holds 0 and 1, booleans or
words, as numbers, text or categories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_INSIDE = {"intissue", "isintissue", "ontissue", "undertissue", "insidetissue", "tissue"}
_OUTSIDE = {"offtissue", "outsidetissue", "isofftissue", "notintissue", "outoftissue"}
_YES = {"1", "1.0", "true", "t", "yes", "y", "in", "intissue", "tissue", "ontissue", "inside"}
_NO = {"0", "0.0", "false", "f", "no", "n", "out", "off", "offtissue", "outside", "notintissue"}


def is_tissue_column(name: str) -> bool:
    """Whether a column says which spots lie on the tissue."""
    return _plain(name) in _INSIDE | _OUTSIDE


def off_tissue(obs: Mapping[str, Any]) -> tuple[str, np.ndarray] | None:
    """The column that tells spots beside the tissue, and which they are, (n,) bool.

    A spot without a value is not said to lie beside.  None where no column tells, none lies beside,
    or a column holds anything but yes and no, such as the name of the tissue.
    """
    for name, column in obs.items():
        if not is_tissue_column(name):
            continue
        words = [_word(value) for value in column]
        if not set(words) <= _YES | _NO | {""}:
            continue
        outside = _YES if _plain(name) in _OUTSIDE else _NO
        off = np.array([word in outside for word in words], dtype=bool)
        if off.any():
            return name, off
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _word(value: Any) -> str:
    """A value as a lower-case word; "" where it is missing."""
    if value is None or value != value:
        return ""
    text = str(value).strip().lower()
    if text in ("nan", "na", "none", "<na>"):
        return ""
    return text if text in ("1.0", "0.0") else _plain(text)
