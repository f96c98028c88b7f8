"""Scores as lines of JSON, and lines of JSON as Markdown tables, real beside generated.

A row is a flat dict of strings, numbers and lists.  Its ``kind`` says what it holds:

* ``conformers``: one protein and one method; ``_c`` marks the core, ``_a`` all residues,
  ``panel_`` what the field reports (:mod:`protein_cvae.evaluation.panel`).
* ``reconstruction``: one protein and one method, an RMSD per judged model.
* ``sequence`` and ``latents``: one protein.
* ``rate``: one protein, method and noise; see :mod:`protein_cvae.evaluation.rates`.
* ``effects``: one protein, latent and size of its moves; see
  :mod:`protein_cvae.evaluation.latent_effects`.

Tables are means over proteins, each protein counting once, known and unseen ones apart.  A value
that does not exist (a core too small, no helix) is null in JSON, and no part of a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from common.report.tables import MISSING, markdown_table, without_nan
from protein_cvae.evaluation.cells import Row, by_method, mean, number, text
from protein_cvae.evaluation.columns import (
    EFFECT_COLUMNS,
    METRICS,
    PROTEIN_COLUMNS,
    RATE_COLUMNS,
    RECONSTRUCTION_COLUMNS,
)
from protein_cvae.evaluation.panel_table import panel_table, panel_values
from protein_cvae.evaluation.rates import RatePoint
from protein_cvae.evaluation.scores import CaseResult, ConformerScores, Reconstruction

GROUPS = {"known": "Known proteins, held-out models", "unseen": "Unseen proteins"}
METHODS = {"real": "real", "resample": "given models, resampled", "prior": "generated, prior"}


def conformer_row(head: Mapping[str, Any], method: str, scores: ConformerScores) -> Row:
    """A ``conformers`` row; ``head`` names the protein and its group."""
    row = {"kind": "conformers", **head, "method": method, "count": scores.count}
    for mark, part in (("c", scores.core), ("a", scores.all)):
        row |= {} if part is None else {f"{key}_{mark}": v for key, v in asdict(part).items()}
    row |= panel_values(scores.panel)
    return _row({**row, **scores.validity, "seconds": scores.seconds})


def reconstruction_row(head: Mapping[str, Any], method: str, scores: Reconstruction) -> Row:
    """A ``reconstruction`` row."""
    return _row({"kind": "reconstruction", **head, "method": method, **asdict(scores)})


def case_rows(result: CaseResult) -> list[Row]:
    """All rows of one protein."""
    head = result.head
    found = result.latents
    latents = {f"kl_{name}": value for name, value in found.kl.items()} | {
        "active_global": found.active_global,
        "active_local": found.active_local,
        "d_global": found.d_global,
        "d_local": found.d_local,
    }
    return [
        *(conformer_row(head, name, scores) for name, scores in result.conformers.items()),
        reconstruction_row(head, "template", result.reconstruction),
        reconstruction_row(head, "no template", result.reconstruction_free),
        _row({"kind": "sequence", **head, **asdict(result.sequence)}),
        _row({"kind": "latents", **head, **latents}),
        *(rate_row(head, point) for point in result.rates),
    ]


def rate_row(head: Mapping[str, Any], point: RatePoint) -> Row:
    """A ``rate`` row; ``head`` names the protein and its group."""
    return _row({"kind": "rate", **head, **asdict(point)})


def effect_row(head: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
    """An ``effects`` row; ``head`` names the protein and its group."""
    return _row({"kind": "effects", **head, **row})


def report(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The whole report of a trained model in Markdown.

    Args:
        rows: of all proteins.
        notes: lines that stand above the tables.
    """
    parts = ["# Evaluation", *notes]
    for group, title in GROUPS.items():
        mine = [row for row in rows if row["group"] == group]
        if not mine:
            continue
        proteins = dict.fromkeys(row["protein"] for row in mine)
        parts += [f"## {title} ({len(proteins)})"]
        parts += [metric_table(mine, METHODS), panel_table(mine, METHODS)]
        parts += [reconstruction_table(mine), _facts(mine)]
        if any(row["kind"] == "rate" for row in mine):
            parts.append(rate_table(mine))
        parts += ["Per protein: " + " / ".join(METHODS.values()), protein_table(mine, METHODS)]
    parts.append(
        "Means over proteins. minRMSD: each judged model to its nearest conformer; precision: the "
        "reverse. real: the models the method was given. The spread of an NMR bundle is not a "
        "Boltzmann distribution."
    )
    return "\n\n".join(parts) + "\n"


def metric_table(rows: Sequence[Row], methods: Mapping[str, str]) -> str:
    """One line per metric, one column per method."""
    chosen = by_method(rows, methods)
    body = [
        [title, *(text(mean(mine, key)) for mine in chosen.values())]
        for key, title in METRICS.items()
    ]
    return markdown_table(["", *(methods[name] for name in chosen)], body)


def method_table(
    rows: Sequence[Row], methods: Mapping[str, str], columns: Mapping[str, str]
) -> str:
    """One line per method, one column per metric."""
    body = [
        [methods[name], str(len(mine)), *(text(mean(mine, key)) for key in columns)]
        for name, mine in by_method(rows, methods).items()
    ]
    return markdown_table(["method", "proteins", *columns.values()], body)


def reconstruction_table(rows: Sequence[Row], methods: Mapping[str, str] | None = None) -> str:
    """Mean, median and 90th percentile over proteins of each RMSD; one line per method."""
    mine = [row for row in rows if row["kind"] == "reconstruction"]
    titles = methods or {row["method"]: row["method"] for row in mine}
    body = []
    for method, title in titles.items():
        chosen = [row for row in mine if row["method"] == method]
        if chosen:
            values = [[number(row[key]) for row in chosen] for key in RECONSTRUCTION_COLUMNS]
            body.append([title, str(len(chosen)), *(_distribution(v) for v in values)])
    heads = [f"{title}: mean, median, 90 %" for title in RECONSTRUCTION_COLUMNS.values()]
    return markdown_table(["reconstruction, Å", "proteins", *heads], body)


def protein_table(rows: Sequence[Row], methods: Mapping[str, str]) -> str:
    """One line per protein; each cell holds the methods in order."""
    body = []
    for protein in dict.fromkeys(row["protein"] for row in rows):
        mine = [row for row in rows if row["protein"] == protein]
        chosen = by_method(mine, methods)
        cells = [
            " / ".join(text(mean(found, key)) for found in chosen.values())
            for key in PROTEIN_COLUMNS
        ]
        rebuilt = [r for r in mine if r["kind"] == "reconstruction" and r["method"] == "template"]
        numbers = [text(mean(rebuilt, key)) for key in ("ca_core", "ca_all")]
        head = mine[0]
        models = f"{head['given']} + {head['judged']}"
        size = f"{head['core']} of {head['residues']}"
        body.append([protein, size, models, " / ".join(numbers), *cells])
    titles = [METRICS[key] for key in PROTEIN_COLUMNS]
    return markdown_table(
        ["protein", "core", "models given + judged", "reconstruction CA core / all, Å", *titles],
        body,
    )


def rate_table(rows: Sequence[Row]) -> str:
    """Rate and distortion: one line per method, number of dimensions and noise, over proteins."""
    mine = [row for row in rows if row["kind"] == "rate"]
    body = []
    for method, noise in dict.fromkeys((r["method"], r["noise"]) for r in mine):
        chosen = [r for r in mine if (r["method"], r["noise"]) == (method, noise)]
        cells = [text(mean(chosen, key)) for key in RATE_COLUMNS]
        body.append([method, f"{noise:g}", *cells])
    return markdown_table(["coded by", "noise, Å", *RATE_COLUMNS.values()], body)


def effect_table(rows: Sequence[Row]) -> str:
    """What moving one number of a latent moves: one line per latent and size, over proteins."""
    body = []
    for latent, unit, size in dict.fromkeys((r["latent"], r["unit"], r["size"]) for r in rows):
        mine = [r for r in rows if (r["latent"], r["unit"], r["size"]) == (latent, unit, size)]
        cells = [text(mean(mine, key)) for key in EFFECT_COLUMNS]
        body.append([latent, f"±{size:g} sd of the {unit}", *cells])
    proteins = ", ".join(dict.fromkeys(row["protein"] for row in rows))
    table = markdown_table(["one number of", "moved by", *EFFECT_COLUMNS.values()], body)
    return (
        f"## What each latent moves\n\n{table}\n\nMeans over {proteins}; decoder output. within: "
        "share of the squared displacement; extent: 1 / L if one residue moves, 1 if all alike."
    )


def _facts(rows: Sequence[Row]) -> str:
    named = [row for row in rows if row["kind"] == "sequence"]
    latents = [row for row in rows if row["kind"] == "latents"]
    sequence = markdown_table(
        ["sequence named right", "with the modality", "withheld", "commonest residue"],
        [["", *(text(mean(named, key))
                for key in ("with_sequence", "without_sequence", "commonest"))]],
    )  # fmt: skip
    names = dict.fromkeys(k for row in latents for k in row if k.startswith("kl_"))
    units = {"kl_global": "global", "kl_shift": "local", "kl_turn": "local"}
    use = markdown_table(
        ["latent", "KL, nats per residue", "active units within a protein", "of"],
        [
            [
                key.removeprefix("kl_"),
                text(mean(latents, key)),
                *(text(mean(latents, f"{what}_{units.get(key)}")) for what in ("active", "d")),
            ]
            for key in names
        ],
    )
    return f"{sequence}\n\n{use}"


def _distribution(values: Sequence[float]) -> str:
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return MISSING
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    high = known[math.ceil(0.9 * len(known)) - 1]
    return ", ".join(text(x) for x in (sum(known) / len(known), middle, high))


def _row(values: Mapping[str, Any]) -> Row:
    """As a line of JSON gives it back: None for NaN, lists for tuples."""
    row: Row = without_nan(values)
    return row
