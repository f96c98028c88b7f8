"""The benchmark of speed: what it counts adds up.  No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import protein_cvae.module


@pytest.fixture(scope="module")
def speed(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/speed")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    model = {
        "width": 16, "layers": 1, "condition_layers": 1, "heads": 2, "feed_forward": 16,
        "d_global": 4, "hidden": 8, "decoder_layers": 1, "chain_neighbors": 2,
        "spatial_neighbors": 4,
    }  # fmt: skip
    data = {
        "simulate": {"num_proteins": 2, "num_models": 5, "min_length": 24, "max_length": 26},
        "draws": {"batch_proteins": 2, "per_epoch": 11},
    }
    parts = {
        "model": {"class_path": "protein_cvae.ProteinCVAEModule", "init_args": {"network": model}},
        "data": {
            "class_path": "protein_cvae.EnsembleDataModule",
            "init_args": data,
        },
        "trainer": {"gradient_clip_val": 1.0},
    }
    path.write_text(yaml.safe_dump(parts))
    return path


def test_parts_add_up_to_the_step_and_steps_to_the_epoch(
    speed: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = protein_cvae.module.fit_terms
    out = tmp_path / "speed.json"
    sizes = ["--steps", "4", "--count", "2", "--repeats", "1", "--lengths", "24", "30"]
    speed.main(["--config", str(config), "--out", str(out), *sizes])
    assert protein_cvae.module.fit_terms is before  # nothing stays patched
    found = json.loads(out.read_text())
    training = found["training"]
    assert training["steps_timed"] == 4
    assert training["steps_per_epoch"] == 6
    assert training["seconds_per_epoch"] == pytest.approx(6 * training["seconds_per_step"])
    parts = training["parts"]
    assert list(parts) == list(speed.PARTS)
    assert sum(parts.values()) == pytest.approx(training["seconds_per_step"], rel=1e-6)
    assert all(seconds > 0 for seconds in parts.values())
    assert [row["residues"] for row in found["generation"]] == [24, 30]
    printed = capsys.readouterr().out
    for part in speed.PARTS:
        assert f"| {part} |" in printed


def test_a_part_inside_another_counts_once(speed: ModuleType):
    clock = [0.0]
    watch = speed.Stopwatch(lambda: clock[0])

    def inner() -> None:
        clock[0] += 2

    inner_timed = watch.timed("decoder", inner)

    def outer() -> str:
        clock[0] += 1
        inner_timed()
        return "done"

    assert watch.timed("prior", outer)() == "done"
    inner_timed()
    assert (watch.seconds["prior"], watch.seconds["decoder"]) == (3, 2)

    def failing() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        watch.timed("prior", failing)()
    inner_timed()  # a failure does not leave the watch inside
    assert watch.seconds["decoder"] == 4


def test_more_steps_than_an_epoch_has_are_refused(speed: ModuleType, config: Path):
    with pytest.raises(SystemExit, match="--steps 9: an epoch of this configuration has 4 steps"):
        speed.main(["--config", str(config), "--steps", "9", "--lengths"])
