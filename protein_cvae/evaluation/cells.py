"""Rows of an evaluation: their means, and numbers as cells of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.report.tables import MISSING

Row = dict[str, Any]


def mean(rows: Iterable[Row], key: str) -> float:
    """Mean of a value, or of the means of a list of values, over the rows that have one."""
    values = [number(row.get(key)) for row in rows]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def by_method(rows: Sequence[Row], methods: Mapping[str, str]) -> dict[str, list[Row]]:
    """The ``conformers`` rows of each of the methods that has any."""
    found = {
        name: [r for r in rows if r["kind"] == "conformers" and r["method"] == name]
        for name in methods
    }
    return {name: mine for name, mine in found.items() if mine}


def number(value: Any) -> float:
    """NaN for nothing, the mean for a list."""
    if isinstance(value, list | tuple):
        known = [float(v) for v in value if v is not None]
        return sum(known) / len(known) if known else math.nan
    return math.nan if value is None else float(value)


def text(value: float) -> str:
    """Three digits, or all of a large whole number; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3g}"
