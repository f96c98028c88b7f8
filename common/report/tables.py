"""Tables of results: Markdown for people, JSON for programs, without NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MISSING = "–"  # the cell of a number that does not exist


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are text already; no newline at the end.

    Raises:
        ValueError: if a row has another number of cells than the head.
    """
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells in a table of {len(head)} columns: {list(row)}")
        lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int = 3, missing: str = MISSING) -> str:
    """A number as a cell; ``missing`` for None and NaN."""
    return missing if value is None or math.isnan(value) else f"{value:.{digits}f}"


def without_nan(value: Any) -> Any:
    """The same with NaN and infinities as None, tuples as lists and keys as text, at any depth.

    JSON has no NaN, and most readers refuse Python's.
    """
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = 1, escape: bool = False) -> str:
    """JSON, null for NaN and infinities, with a newline at the end.

    Args:
        value: of what JSON has words for, see :func:`without_nan`.
        indent: spaces per level; None for one line.
        escape: write what is not ASCII as ``\\u`` and its code, else as it is.
    """
    text = json.dumps(without_nan(value), indent=indent, ensure_ascii=escape, allow_nan=False)
    return text + "\n"


def to_json_lines(rows: Iterable[Mapping[str, Any]], escape: bool = False) -> str:
    """One line of :func:`to_json` for each row."""
    return "".join(to_json(row, indent=None, escape=escape) for row in rows)
