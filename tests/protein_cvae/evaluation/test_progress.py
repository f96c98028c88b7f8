"""An evaluation that was interrupted goes on, and takes nothing of another one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from protein_cases import SETTINGS, make_cases, make_ensemble, make_network

from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.evaluation import run as run_module
from protein_cvae.evaluation.progress import Progress, case_hash
from protein_cvae.evaluation.run import EvaluationRun, evaluate
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.model.network import ProteinCVAE

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def cases() -> EvaluationCases:
    return make_cases(*map(make_ensemble, NAMES), unseen=("beta",))


@pytest.fixture(scope="module")
def network() -> ProteinCVAE:
    return make_network()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the proteins that are computed, in turn."""
    names: list[str] = []

    def counted(network: ProteinCVAE, case: EvaluationCase, *rest: Any) -> Any:
        names.append(case.name)
        return original(network, case, *rest)

    original = run_module.evaluate_case
    monkeypatch.setattr(run_module, "evaluate_case", counted)
    return names


def cut(cases: EvaluationCases, after: int) -> Iterator[EvaluationCase]:
    """Cases of which one cannot be had."""
    for number, case in enumerate(cases):
        if number == after:
            raise KeyboardInterrupt
        yield case


def untimed(folder: Path) -> dict[str, Any]:
    """What was written, without the times that it took."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".png":
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
        elif path.is_file():
            lines = path.read_text().splitlines()
            found[name] = [line for line in lines if not line.startswith("| seconds")]
    return found


def test_an_interrupted_evaluation_ends_as_an_uninterrupted_one(
    cases: EvaluationCases, network: ProteinCVAE, scored: list[str], tmp_path: Path
) -> None:
    evaluate(network, cases, SETTINGS, tmp_path / "whole")
    assert scored == ["alpha", "gamma", "beta"]
    scored.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate(network, cut(cases, 2), SETTINGS, tmp_path / "cut")
    assert scored == ["alpha", "gamma"]
    assert not (tmp_path / "cut" / "evaluation.md").exists()
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "cut" / "progress").iterdir())
    assert kept == ["alpha", "gamma"]

    scored.clear()
    evaluate(network, cases, SETTINGS, tmp_path / "cut")
    assert scored == ["beta"]
    whole = untimed(tmp_path / "whole")
    assert {"evaluation.md", "evaluation.jsonl", "physicality.json"} <= set(whole)
    assert untimed(tmp_path / "cut") == whole

    # What has ended is measured anew.
    scored.clear()
    evaluate(network, cases, SETTINGS, tmp_path / "cut")
    assert scored == ["alpha", "gamma", "beta"]


def test_figures_come_along_into_another_folder(
    cases: EvaluationCases, network: ProteinCVAE, scored: list[str], tmp_path: Path
) -> None:
    """As where every run has a log folder of its own; where they are gone, they are drawn anew."""

    def go(output: Path) -> None:
        progress = Progress(tmp_path / "kept", network, SETTINGS, FinishOptions())
        run = EvaluationRun(network, SETTINGS, output, None, progress=progress)
        run.add(cases[0])

    go(tmp_path / "first")
    go(tmp_path / "second")
    assert scored == ["alpha"]
    first, second = (untimed(tmp_path / name) for name in ("first", "second"))
    assert len(first) == 5
    assert first == second
    (tmp_path / "first" / "figures" / "alpha_rmsf.png").unlink()
    go(tmp_path / "third")
    assert scored == ["alpha", "alpha"]
    assert set(untimed(tmp_path / "third")) == set(first)


def test_results_of_another_evaluation_are_never_taken(
    cases: EvaluationCases, network: ProteinCVAE, scored: list[str], tmp_path: Path
) -> None:
    """Other weights, sizes, settings, ways of finishing, splits and coordinates."""
    plain = dataclasses.replace(SETTINGS, figures=0, count=2)

    def go(
        network: ProteinCVAE = network,
        settings: EvaluationSettings = plain,
        case: EvaluationCase = cases[0],
        finishing: FinishOptions | None = None,
    ) -> None:
        progress = Progress(tmp_path / "kept", network, settings, finishing)
        EvaluationRun(network, settings, tmp_path, None, progress=progress).add(case)

    go()
    go(settings=dataclasses.replace(plain, output="elsewhere"))
    assert scored == ["alpha"]
    moved = make_network()
    with torch.no_grad():
        next(moved.parameters()).flatten()[0] += 1e-6
    go(network=moved)
    go(network=make_network(dropout=0.1))
    go(settings=dataclasses.replace(plain, seed=1))
    go(finishing=FinishOptions(steps=0))
    prepared = cases[0].prepared
    others = [
        dataclasses.replace(prepared, given=prepared.given[1:]),
        dataclasses.replace(prepared, judged=prepared.judged[1:], given=prepared.given),
        dataclasses.replace(prepared, core=~prepared.core),
        dataclasses.replace(
            prepared,
            ensemble=dataclasses.replace(
                prepared.ensemble, coordinates=prepared.ensemble.coordinates + 1e-3
            ),
        ),
    ]
    hashes = {case_hash(dataclasses.replace(cases[0], prepared=other)) for other in others}
    assert len(hashes | {case_hash(cases[0])}) == 5
    go(case=dataclasses.replace(cases[0], prepared=others[3]))
    assert scored == ["alpha"] * 6
    go()
    assert scored == ["alpha"] * 6


def test_a_file_that_was_cut_is_no_result(
    cases: EvaluationCases, network: ProteinCVAE, scored: list[str], tmp_path: Path
) -> None:
    plain = dataclasses.replace(SETTINGS, figures=0, count=2)
    progress = Progress(tmp_path / "kept", network, plain, None)
    EvaluationRun(network, plain, tmp_path, None, progress=progress).add(cases[0])
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_text()
    for content in ("", whole[: len(whole) // 2], '{"name": "alpha"}'):
        path.write_text(content)
        assert progress.read(cases[0]) is None
    EvaluationRun(network, plain, tmp_path, None, progress=progress).add(cases[0])
    assert scored == ["alpha", "alpha"]


def test_another_finisher_keeps_nothing(
    cases: EvaluationCases, network: ProteinCVAE, tmp_path: Path
) -> None:
    """Nothing tells one function from another."""
    plain = dataclasses.replace(SETTINGS, figures=0, count=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(network, cut(cases, 1), plain, tmp_path, lambda x, batch, mask: x)
    assert not (tmp_path / "progress").exists()
