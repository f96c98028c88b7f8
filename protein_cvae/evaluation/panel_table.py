"""The field's panel as keys of a row and as a table: medians over proteins, correlations pooled.

Medians over proteins, correlation of the mean pairwise RMSD over proteins, that of the RMSF over
all residues of all proteins ("global") and its median over proteins ("per target"), and the share
of proteins whose first components have a cosine above 0.5: as AlphaFlow's
``scripts/print_analysis.py`` sums up (Jing et al. 2024, arXiv:2402.04845).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from common.report.tables import markdown_table
from protein_cvae.evaluation.cells import Row, by_method, mean, number, text
from protein_cvae.evaluation.metrics import correlation
from protein_cvae.evaluation.panel import PanelScores

FEWEST_PROTEINS = 3  # of a correlation over proteins; two points lie on a line
COSINE = 0.5
ACCEPTED = "accepted"
_DIGITS = 4  # of the profiles, Å

# Medians, title by key; what is pooled stands between them.
_SPREAD = {
    "panel_pairwise_rmsd_real": "real pairwise RMSD, Å",
    "panel_pairwise_rmsd": "pairwise RMSD, Å",
}
_MEDIANS = {
    "panel_rmsf_r": "RMSF r, per target",
    "panel_rmwd": "RMWD, Å",
    "panel_rmwd_translation": "RMWD translation, Å",
    "panel_rmwd_variance": "RMWD variance, Å",
    "panel_pca_w2": "PCA W₂, Å",
    "panel_joint_w2": "joint PCA W₂, Å",
}
_CONTACTS = {
    "panel_weak_contacts": "weak contacts J",
    "panel_transient_contacts": "transient contacts J",
}
PANEL_KEYS = (*_SPREAD, *_MEDIANS, "panel_pc_cosine", *_CONTACTS, "panel_rmsf", "panel_rmsf_real")


def panel_values(scores: PanelScores) -> dict[str, Any]:
    """The entries of a ``conformers`` row; profiles with 0.0001 Å."""
    return {
        f"panel_{name}": [round(x, _DIGITS) for x in value] if isinstance(value, tuple) else value
        for name, value in asdict(scores).items()
    }


def panel_table(rows: Sequence[Row], methods: Mapping[str, str]) -> str:
    """One line per method; see the module's text.

    A column of the share of draws that were accepted stands where a row has one: methods that
    refuse draws are judged on the others alone.
    """
    found = by_method(rows, methods)
    refuses = any(ACCEPTED in row for mine in found.values() for row in mine)
    titles = [
        *_SPREAD.values(), "r over proteins", "RMSF r, global", *_MEDIANS.values(),
        f"PC cosine > {COSINE}", *_CONTACTS.values(), *(["accepted"] if refuses else []),
    ]  # fmt: skip
    body = []
    for method, mine in found.items():
        cosines = _known(mine, "panel_pc_cosine")
        similar = sum(c > COSINE for c in cosines) / len(cosines) if cosines else math.nan
        values = [
            *(_median(mine, key) for key in _SPREAD),
            _spread_correlation(mine),
            _pooled_correlation(mine),
            *(_median(mine, key) for key in _MEDIANS),
            similar,
            *(_median(mine, key) for key in _CONTACTS),
            *([mean(mine, ACCEPTED)] if refuses else []),
        ]
        body.append([methods[method], str(len(mine)), *map(text, values)])
    return markdown_table(["the field's panel, all residues", "proteins", *titles], body)


def _known(rows: Sequence[Row], key: str) -> list[float]:
    values = [number(row.get(key)) for row in rows]
    return [value for value in values if not math.isnan(value)]


def _median(rows: Sequence[Row], key: str) -> float:
    values = _known(rows, key)
    return median(values) if values else math.nan


def _spread_correlation(rows: Sequence[Row]) -> float:
    pairs = [(row["panel_pairwise_rmsd"], row["panel_pairwise_rmsd_real"])
             for row in rows if "panel_pairwise_rmsd" in row]  # fmt: skip
    if len(pairs) < FEWEST_PROTEINS:
        return math.nan
    made, real = torch.tensor(pairs, dtype=torch.float64).T
    return correlation(made, real)


def _pooled_correlation(rows: Sequence[Row]) -> float:
    made = [x for row in rows for x in row.get("panel_rmsf", ())]
    real = [x for row in rows for x in row.get("panel_rmsf_real", ())]
    if not made:
        return math.nan
    return correlation(*(torch.tensor(x, dtype=torch.float64) for x in (made, real)))
