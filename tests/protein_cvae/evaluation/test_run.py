"""A whole evaluation: files, figures, settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from protein_cases import (
    SETTINGS,
    gappy,
    make_cases,
    make_ensemble,
    make_network,
)

from protein_cvae.evaluation.run import evaluate
from protein_cvae.evaluation.score_protein import MODES
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.refine import FinishOptions


def test_settings_out_of_range_are_refused():
    for wrong in ({"count": 1}, {"chunk": 0}, {"bandwidth": 1.5}, {"threshold": 0.0}):
        with pytest.raises(ValueError, match="evaluation: expected"):
            EvaluationSettings(**wrong)
    for wrong in ({"noise": 0.0}, {"rates": (0.1, -0.2)}, {"rates": (50.0,)}):
        with pytest.raises(ValueError, match="evaluation: noise and rates must lie in"):
            EvaluationSettings(**wrong)


def text_rates(folder: Path) -> list[str]:
    """The group of each line of the tables of rates."""
    found, group = [], ""
    for line in (folder / "evaluation.md").read_text().splitlines():
        group = {"## Kn": "known", "## Un": "unseen"}.get(line[:5], group)
        if line.startswith(("| ours |", "| z_global alone |")):
            found.append(group)
    return found


def test_a_run_writes_report_rows_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    alpha, gamma, beta = (make_ensemble(name) for name in ("alpha", "gamma", "beta"))
    cases = make_cases(alpha, gappy(gamma, 2, 25), beta, unseen=("beta",), incomplete="drop")
    projection = geometry_finisher(options=FinishOptions(steps=0))
    rows = evaluate(make_network(), cases, SETTINGS, tmp_path, projection)
    written = [
        json.loads(line) for line in (tmp_path / "evaluation.jsonl").read_text().splitlines()
    ]
    assert written == rows
    kinds = [(r["protein"], r["kind"], r.get("method"), r.get("noise")) for r in rows]
    points = len(SETTINGS.rates) + 1
    assert len(kinds) == len(set(kinds)) == 3 * (3 + 2 + 1 + 1 + points)
    assert text_rates(tmp_path) == points * ["known"] + points * ["unseen"]
    left_out = {(r["protein"], *r["left_out"]) for r in rows}
    assert left_out == {("alpha",), ("gamma", gamma.label(25)), ("beta",)}
    text = (tmp_path / "evaluation.md").read_text()
    assert f"gamma: not scored, as not all models have them, are {gamma.label(25)}.\n" in text
    assert text.count("not scored") == 1
    assert text.strip() in capsys.readouterr().out
    assert "Known proteins, held-out models (2)" in text
    assert "Unseen proteins (1)" in text
    assert text.count("| real | given models, resampled | generated, prior |") == 2
    # One protein of each group has figures; the latent map is of all.
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("traces", "rmsf", "ramachandran", "distances", "effects")
    assert names == {f"{p}_{k}.png" for p in ("alpha", "beta") for k in kinds} | {"latents.png"}
    assert all((tmp_path / "figures" / n).read_bytes()[:4] == b"\x89PNG" for n in names)
    # No draw is refused: as many conformers as were asked for, in all that is written.
    made = [r for r in rows if r["kind"] == "conformers" and r["method"] in MODES]
    assert [r["count"] for r in made] == [SETTINGS.count] * 6
    assert "| accepted |" not in text
    physical = json.loads((tmp_path / "physicality.json").read_text())
    assert set(physical) == {"alpha", "gamma", "beta"}
    for methods in physical.values():
        assert set(methods) == {"real", *MODES}
        for mode in MODES:
            assert {len(v) for v in methods[mode].values()} == {SETTINGS.count}
    assert not (tmp_path / "progress").exists()
    inside = [r["inside"] for r in rows if r.get("method") in MODES]
    assert min(inside) > 0.9
    effects = [json.loads(x) for x in (tmp_path / "latent_effects.jsonl").read_text().splitlines()]
    assert [r["protein"] for r in effects] == ["alpha"] * 6 + ["beta"] * 6
    by_hand = [r["rms"] for r in effects if (r["latent"], r["size"]) == ("shift", 2.0)]
    line = next(x for x in text.splitlines() if x.startswith("| shift | ±2 sd of the prior |"))
    assert float(line.split("|")[3]) == pytest.approx(sum(by_hand) / 2, rel=0.01)
