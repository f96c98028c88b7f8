"""The file of results, and the tables made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runner import CONDITIONS, TRIVIAL
from splits import TOGETHER

from common.report.machine import machines_of
from common.report.tables import markdown_table
from spatial_ipa.evaluation.scorer import COLUMNS, SCORES

KEY = ("split", "fold", "condition", "seed", "tag", "rotate")
"""What tells one job from another."""

FAILED = "failed"
"""How a method was applied that gave no layout; why is in its row under the same name."""

Row = dict[str, Any]
Method = tuple[str, str]
"""Its name, and how it was applied."""


def key_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in KEY)


def read_results(path: Path) -> list[Row]:
    """The lines of a file of results; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def cell(by_seed: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    spread = f" ± {np.std(by_seed, ddof=1):.3f}" if len(by_seed) > 1 else ""
    return f"{np.mean(by_seed):.3f}{spread}"


def report(
    rows: Sequence[Row], tags: Sequence[str], columns: Sequence[str] = tuple(COLUMNS)
) -> list[str]:
    """Print mean and sd over seeds of the mean over held-out slides, per split and method.

    The splits of :data:`splits.TOGETHER` are then also taken together, for the methods that placed
    every slide of them.  With several tags, trained methods are told apart by theirs.

    Args:
        rows: of the file of results, those to be shown.
        tags: of the rows.
        columns: scores shown, keys of :data:`~spatial_ipa.evaluation.scorer.SCORES` or others that
            rows have, such as those of :mod:`gate`.

    Returns:
        What the tables lack: for each the rows of :data:`runner.TRIVIAL` that are not there, or do
        not cover every slide of the table.
    """
    rows = without_mended(rows)
    print(f"Measured on {machines_of(rows)}")
    if len(tags) > 1:
        rows = [
            {**r, "inference": f"{r['tag']}, {r['inference']}"}
            if r["condition"] in CONDITIONS
            else r
            for r in rows
        ]
    tables = {
        split: [r for r in rows if r["split"] == split]
        for split in dict.fromkeys(r["split"] for r in rows)
    }
    lacking = []
    for split, mine in tables.items():
        _print_table(split, by_method(mine), columns)
        for why, failed in _failures(mine).items():
            print(f"\nFailed on {', '.join(sorted(failed))}: {why}")
        missing = missing_trivial(mine)
        if missing:
            lacking.append(f"{split} lacks {', '.join(missing)}")
            print(f"\nMissing, so that nobody sees what learning brings: {', '.join(missing)}.")
    for title, splits in TOGETHER.items():
        mine = [r for split in splits for r in tables.get(split, [])]
        if len({r["split"] for r in mine}) < 2:
            continue
        slides = {r["slide"] for r in mine}
        whole = {k: m for k, m in by_method(mine).items() if {r["slide"] for r in m} == slides}
        _print_table(f"{title} together", whole, columns)
    return lacking


def without_mended(rows: Sequence[Row]) -> list[Row]:
    """Rows without those of failures whose job was run again later."""
    last = {(key_of(row), row["method"], row["slide"]): FAILED in row for row in rows}
    return [
        row for row in rows if FAILED not in row or last[key_of(row), row["method"], row["slide"]]
    ]


def _failures(rows: Iterable[Row]) -> dict[str, set[str]]:
    """Slides by why there is no layout of them."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if FAILED in row:
            found.setdefault(row[FAILED], set()).add(row["slide"])
    return found


def missing_trivial(rows: Iterable[Row]) -> list[str]:
    """Rows of :data:`runner.TRIVIAL` that a table lacks, wholly or for some of its slides."""
    slides: dict[str, set[str]] = {}
    for row in rows:
        slides.setdefault(row["method"], set()).add(row["slide"])
    every = set().union(*slides.values())
    found = []
    for name in TRIVIAL:
        absent = every - slides.get(name, set())
        if absent:
            found.append(name if absent == every else f"{name} ({', '.join(sorted(absent))})")
    return found


def by_method(rows: Iterable[Row]) -> dict[Method, list[Row]]:
    """Rows by method, in the order they come in."""
    found: dict[Method, list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["inference"]), []).append(row)
    return found


def _print_table(
    title: str, methods: dict[Method, list[Row]], columns: Sequence[str] = tuple(COLUMNS)
) -> None:
    rows = []
    for method, mine in methods.items():
        slides = {r["slide"] for r in mine}
        # A seed that has not seen every slide yet would compare different slides.
        seeds = [
            s
            for s in sorted({r["seed"] for r in mine})
            if {r["slide"] for r in mine if r["seed"] == s} == slides
        ]
        cells = [
            cell([_mean_of(column, [r for r in mine if r["seed"] == s]) for s in seeds])
            for column in columns
        ]
        name = ", ".join(part for part in method if part)
        rows.append([name, str(len(slides)), str(len(seeds)), *cells])
    print(f"\n### {title}\n")
    titles = [SCORES[c].title if c in SCORES else c for c in columns]
    print(markdown_table(["method", "slides", "seeds", *titles], rows))


def _mean_of(column: str, rows: list[Row]) -> float:
    """NaN if a row lacks that score, as those of ``results.jsonl`` do from before it existed."""
    return float(np.mean([row.get(column, np.nan) for row in rows]))
