"""Ensembles from elsewhere, as files of every kind, in the table of ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mdtraj
import pytest
import torch
import yaml

from protein_cvae.data.cases import EvaluationCase
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.scores import score_conformers
from protein_cvae.evaluation.tables import conformer_row
from protein_cvae.io import write_ensemble

SIMULATION = {"num_proteins": 2, "num_models": 6, "min_length": 24, "max_length": 26}
FIRST, SECOND = "simulated_0_0", "simulated_0_1"


@pytest.fixture(scope="module")
def outside(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/outside")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    data = {
        "class_path": "protein_cvae.EnsembleDataModule",
        "init_args": {"simulate": SIMULATION, "split": {"families_held_out": [SECOND]}},
    }
    path.write_text(yaml.safe_dump({"data": data}))
    return path


@pytest.fixture(scope="module")
def cases(outside: ModuleType, config: Path) -> dict[str, EvaluationCase]:
    _, found = outside.read_cases(outside.merged([config]))
    return {case.name: case for case in found}


def drawn(case: EvaluationCase, count: int = 5) -> Ensemble:
    """Conformers that a sampler might have made, numbered from 101 in a chain of its own."""
    ensemble = case.prepared.ensemble
    generator = torch.Generator().manual_seed(1)
    x = case.coordinates[torch.arange(count) % ensemble.num_models]
    x = x + 0.02 * torch.randn(x.shape, generator=generator)
    return dataclasses.replace(
        ensemble,
        coordinates=x,
        mask=torch.ones(x.shape[:2], dtype=torch.bool),
        model_numbers=tuple(range(1, count + 1)),
        residue_numbers=ensemble.residue_numbers + 100,
        chain_ids=("Q",),
    )


def arguments(config: Path, folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "--config", str(config), "--ensembles", str(folder), "--out", str(out), "--name", "theirs",
        *more,
    ]  # fmt: skip


def rows_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def write_trajectory(ensemble: Ensemble, folder: Path, topology: str, frames: str) -> None:
    """Topology with other residues around, as simulations have them, and XTC by MDTraj."""
    write_ensemble(folder / topology, ensemble.select_models([0]))
    top = mdtraj.load_topology(folder / topology)
    xyz = ensemble.coordinates.flatten(1, 2).numpy() / 10
    mdtraj.Trajectory(xyz, top).save_xtc(folder / frames)


@pytest.mark.parametrize("kind", ["models", "trajectory", "folder", "conformers"])
def test_rows_are_those_of_the_coordinates_in_the_files(
    outside: ModuleType,
    config: Path,
    cases: dict[str, EvaluationCase],
    tmp_path: Path,
    kind: str,
) -> None:
    case, folder = cases[FIRST], tmp_path / "made"
    ensemble = drawn(case)
    folder.mkdir()
    if kind == "models":
        write_ensemble(folder / f"{FIRST}.pdb.gz", ensemble)
    elif kind == "trajectory":
        write_trajectory(ensemble, folder, f"{FIRST}.pdb", f"{FIRST}.xtc")
    else:
        (folder / FIRST).mkdir()
        if kind == "folder":
            write_trajectory(ensemble, folder / FIRST, "topology.pdb", "samples.xtc")
        else:
            for model in range(5):
                write_ensemble(folder / FIRST / f"{model}.cif", ensemble.select_models([model]))
    outside.main(arguments(config, folder, tmp_path / "out", "--asked", "8"))
    (row,) = rows_of(tmp_path / "out")
    wanted = conformer_row(
        case.head, "outside theirs", score_conformers(ensemble.coordinates, case)
    )
    assert row["accepted"] == 5 / 8
    for key, value in wanted.items():
        if key in ("validity", "panel_rmsf", "panel_rmsf_real", "method") or value is None:
            continue
        tolerance = 0.1 if kind in ("trajectory", "folder") else 0.01  # XTC has 0.01 Å
        if isinstance(value, float):
            assert row[key] == pytest.approx(value, rel=tolerance, abs=0.02), key
        else:
            assert row[key] == value, key


def test_rows_stand_in_the_table_of_ours_and_are_replaced(
    load_benchmark: Callable[[str], ModuleType],
    outside: ModuleType,
    config: Path,
    cases: dict[str, EvaluationCase],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = load_benchmark("protein/table")
    out, folder = tmp_path / "out", tmp_path / "made"
    folder.mkdir()
    table.main(["run", "--config", str(config), "--out", str(out), "--count", "3"])
    before = rows_of(out)
    for name, case in cases.items():
        write_ensemble(folder / f"{name}.pdb", drawn(case))
    write_ensemble(folder / "1abc.pdb", drawn(cases[FIRST]))
    outside.main(arguments(config, folder, out))
    assert "no protein is called so: 1abc" in capsys.readouterr().out
    once = rows_of(out)
    assert once[: len(before)] == before
    assert [r["protein"] for r in once[len(before) :]] == [FIRST, SECOND]
    assert {(r["settings"], r["split"]) for r in once} == {
        (before[0]["settings"], before[0]["split"])
    }
    write_ensemble(folder / f"{FIRST}.pdb", drawn(cases[FIRST], 3))
    outside.main(arguments(config, folder, out))
    again = rows_of(out)
    assert len(again) == len(once)
    counts = {r["protein"]: r["count"] for r in again if r["maker"] == "outside theirs"}
    assert counts == {FIRST: 3, SECOND: 5}
    capsys.readouterr()
    table.main(["report", "--out", str(out)])
    assert capsys.readouterr().out.count("| theirs | 1 |") == 4  # two groups, two tables


def test_what_does_not_fit_is_refused_in_one_message(
    outside: ModuleType, config: Path, cases: dict[str, EvaluationCase], tmp_path: Path
) -> None:
    first, second = drawn(cases[FIRST]), drawn(cases[SECOND])
    keep = torch.ones(first.length, dtype=torch.bool)
    keep[10] = False
    folder, out = tmp_path / "made", tmp_path / "out"
    folder.mkdir()
    write_ensemble(folder / f"{FIRST}.pdb", first.select_residues(keep))
    write_ensemble(folder / f"{SECOND}.pdb", second.select_models([0]))
    missing = cases[FIRST].prepared.ensemble.label(10)
    with pytest.raises(SystemExit) as end:
        outside.main(arguments(config, folder, out))
    assert f"lacks residues of {FIRST} that are scored: {missing};" in str(end.value)
    assert "one conformer is no ensemble" in str(end.value)
    assert "2 of 2 ensembles do not fit" in str(end.value)
    assert not (out / "results.jsonl").exists()

    # Another protein, and a residue that one conformer lacks.
    write_ensemble(folder / f"{FIRST}.pdb", second)
    gap = second.mask.clone()
    gap[2, 5] = False
    gappy = dataclasses.replace(
        second, mask=gap, coordinates=second.coordinates * gap[..., None, None]
    )
    write_ensemble(folder / f"{SECOND}.pdb", gappy)
    with pytest.raises(SystemExit) as end:
        outside.main(arguments(config, folder, out))
    assert "residues in common" in str(end.value) or "lacks residues" in str(end.value)
    assert f"N, CA and C of {second.label(5)}" in str(end.value)
    write_ensemble(folder / f"{SECOND}.pdb", second)
    outside.main(arguments(config, folder, out, "--skip-bad"))
    assert [row["protein"] for row in rows_of(out)] == [SECOND]

    with pytest.raises(SystemExit, match=r"5 conformers, --asked is 4"):
        outside.main(arguments(config, folder, out, "--asked", "4"))
    with pytest.raises(SystemExit, match="is no folder"):
        outside.main(arguments(config, tmp_path / "absent", out))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=rf"of none of the proteins.*{FIRST}, {SECOND}"):
        outside.main(arguments(config, tmp_path / "empty", out))
    write_ensemble(folder / f"{SECOND}.cif", second)
    with pytest.raises(SystemExit, match="has several ensembles"):
        outside.main(arguments(config, folder, out))


def test_another_split_is_no_row_of_this_table(
    outside: ModuleType, config: Path, cases: dict[str, EvaluationCase], tmp_path: Path
) -> None:
    folder, out = tmp_path / "made", tmp_path / "out"
    for path in (folder, out):
        path.mkdir()
    write_ensemble(folder / f"{FIRST}.pdb", drawn(cases[FIRST]))
    kept = json.dumps({"maker": "noise", "protein": FIRST, "settings": "s", "split": "other"})
    (out / "results.jsonl").write_text(kept + "\n")
    with pytest.raises(SystemExit, match="another split"):
        outside.main(arguments(config, folder, out))
    assert (out / "results.jsonl").read_text() == kept + "\n"
