"""Health report: what the network did with slides of known positions, in figures and numbers.

    FOLDER/focus_<slide>.png            whom a few cells attend to, by head
    FOLDER/progression_<slide>.png      layout at the start and after each recycle
    FOLDER/health.json                  all health checks, by slide
    FOLDER/health.md                    the same as three tables: by recycle, by head, of the layout

Numbers are defined in :mod:`spatial_ipa.model.diagnostics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.files.atomic import atomic_path
from common.report.figures import save_figure
from common.report.tables import markdown_table, number, to_json
from spatial_ipa.evaluation.plots.attention import focus_figure, progression_figure
from spatial_ipa.model.trace import Trace

_OF_HEADS = "head_"


def write_health(traces: Sequence[Trace], folder: Path) -> str:
    """Write the report.

    Args:
        traces: with health checks, of slides with different names.
        folder: must exist.

    Returns:
        The text of the tables.
    """
    for trace in traces:
        name = trace.name.replace("/", "_")
        save_figure(focus_figure(trace), folder / f"focus_{name}.png")
        save_figure(progression_figure(trace), folder / f"progression_{name}.png")
    text = "\n".join(_tables(traces))
    for name, written in (
        ("health.json", to_json({trace.name: dict(trace.health) for trace in traces})),
        ("health.md", text),
    ):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(written)
    return text


def _tables(traces: Sequence[Trace]) -> list[str]:
    """A table of the checks that are there per recycle, one of those per head, one of the rest."""
    names = sorted({name for trace in traces for name in trace.health})
    numbered = [name.rpartition("/")[0] for name in names if "/" in name]
    heads = list(dict.fromkeys(n for n in numbered if n.startswith(_OF_HEADS)))
    recycles = list(dict.fromkeys(n for n in numbered if not n.startswith(_OF_HEADS)))
    return [
        _numbered(traces, "recycle", recycles),
        _numbered(traces, "head", heads),
        _table(
            ["slide", *(plain := [name for name in names if "/" not in name])],
            [[t.name, *(number(t.health.get(name)) for name in plain)] for t in traces],
        ),
    ]


def _numbered(traces: Sequence[Trace], corner: str, names: Sequence[str]) -> str:
    rows = []
    for trace in traces:
        given = {name.rpartition("/")[2] for name in trace.health if name.split("/")[0] in names}
        rows += [
            [trace.name, str(i), *(number(trace.health.get(f"{name}/{i}")) for name in names)]
            for i in sorted(map(int, given))
        ]
    return _table(["slide", corner, *names], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(head, rows) + "\n"
