"""Rows and tables."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from protein_cases import (
    SETTINGS,
    head,
    make_cases,
    make_ensemble,
    make_network,
    noisy,
)

from common.report.tables import to_json_lines
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.columns import (
    METRICS,
    PROTEIN_COLUMNS,
    RATE_COLUMNS,
    RECONSTRUCTION_COLUMNS,
)
from protein_cvae.evaluation.score_protein import evaluate_case
from protein_cvae.evaluation.scores import (
    Reconstruction,
    score_conformers,
)
from protein_cvae.evaluation.tables import (
    case_rows,
    conformer_row,
    mean,
    metric_table,
    rate_table,
    reconstruction_row,
    reconstruction_table,
    report,
)


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def test_a_table_has_the_means_over_proteins_real_beside_generated(case):
    good, bad = (score_conformers(x, case) for x in (case.coordinates, noisy(case, 0.4)))
    rows = [
        conformer_row(head("a"), "real", good),
        conformer_row(head("b"), "real", good),
        conformer_row(head("a"), "prior", bad),
        conformer_row(head("b"), "prior", dataclasses.replace(bad, core=None)),
    ]
    assert mean(rows[2:], "min_rmsd_c") == pytest.approx(bad.core.min_rmsd)
    assert mean(rows, "min_rmsd_a") == pytest.approx((good.all.min_rmsd + bad.all.min_rmsd) / 2)
    table = metric_table(rows, {"real": "REAL", "resample": "RESAMPLE", "prior": "PRIOR"})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["", "REAL", "PRIOR"]  # no empty column for what was not run
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert cells["residues inside 4 sd"][0] == "1"
    assert float(cells["minRMSD all, Å"][1]) == pytest.approx(bad.all.min_rmsd, rel=0.01)
    assert cells["seconds per conformer"] == ["–", "–"]


def test_reconstruction_shows_the_distribution_over_proteins():
    rows = [
        reconstruction_row(
            head(str(i)), "template", Reconstruction((math.nan,), (x, x + 0.2), (x,), (x,))
        )
        for i, x in enumerate((0.1, 0.2, 0.9))
    ]
    last = reconstruction_table(rows).splitlines()[-1].split("|")
    assert last[1].strip() == "template"
    assert last[3].strip() == "–"
    assert last[4].strip() == "0.5, 0.3, 1"  # of the proteins' means 0.2, 0.3, 1.0


def test_json_lines_hold_no_nan():
    whole = score_conformers(torch.randn(2, 26, 3, 3), make_cases(make_ensemble("x"))[0])
    scores = dataclasses.replace(whole, core=None, validity={"left_chirality": math.nan})
    line = to_json_lines([conformer_row(head("a"), "real", scores)])
    row = json.loads(line, parse_constant=lambda text: pytest.fail(text))
    assert row["left_chirality"] is None
    assert row["seconds"] is None


def test_every_column_is_a_key_of_its_rows(case):
    """A misspelt key would print as a number that does not exist."""
    scores = score_conformers(case.coordinates, case)
    assert set(METRICS) <= set(conformer_row(head("a"), "real", scores))
    assert set(PROTEIN_COLUMNS) <= set(METRICS)
    rebuilt = reconstruction_row(head("a"), "real", Reconstruction((), (), (), ()))
    assert set(RECONSTRUCTION_COLUMNS) <= set(rebuilt)


def test_rows_of_a_case_carry_every_number(case):
    result, _ = evaluate_case(make_network(), case, SETTINGS, None)
    rows = case_rows(result)
    named = {row["kind"]: row for row in rows}
    assert set(named) == {"conformers", "reconstruction", "sequence", "latents", "rate"}
    assert named["latents"]["kl_global"] == result.latents.kl["global"]
    assert named["sequence"]["without_sequence"] == result.sequence.without_sequence
    points = [row for row in rows if row["kind"] == "rate"]
    assert set(RATE_COLUMNS) <= set(points[0])
    assert [row["nats"] for row in points] == [point.nats for point in result.rates]
    cells = [line.split("|")[1:4] for line in rate_table(points).splitlines()[2:]]
    assert [[cell.strip() for cell in line] for line in cells] == [
        [point.method, f"{point.noise:g}", str(point.dimensions)] for point in result.rates
    ]
    text = report(rows)
    assert rate_table(points) in text
    assert "Unseen" not in text
    assert "alpha" in text
