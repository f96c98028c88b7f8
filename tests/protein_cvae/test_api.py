"""The front door: examples run, and what it does is what the command line does, bit for bit."""

from __future__ import annotations

import dataclasses
import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from protein_runs import ROOT, SIZES, Command, structure_file

import protein_cvae
from common.cli import main as cli
from protein_cvae import fitting, pl, presets
from protein_cvae import trained as use
from protein_cvae.data.settings import SplitSettings
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.generation.generate import GenerateOptions
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import OptimizerSettings

pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")
TINY = presets.Preset(
    network=NetworkSettings(**{**SIZES, "d_global": 8}),
    draws=presets.DrawSettings(batch_proteins=2, per_epoch=4),
    max_epochs=1,
)


@pytest.fixture(scope="module")
def ensembles() -> list[Ensemble]:
    return list(simulate_ensembles(3, 6, 26, 26, seed=0))


@pytest.fixture(scope="module")
def folder(ensembles: list[Ensemble], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front_door")
    for ensemble in ensembles:
        protein_cvae.write(folder / f"{ensemble.name}.pdb", ensemble)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> use.ProteinModel:
    return protein_cvae.fit(
        sorted(map(str, folder.glob("*.pdb"))), folder / "m", TINY, accelerator="cpu"
    )


FOUND = [t for part in (use, fitting, pl) for t in doctest.DocTestFinder().find(part)]
EXAMPLES = [test for test in FOUND if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_examples(
    example: doctest.DocTest, model: use.ProteinModel, folder: Path, ensembles: list[Ensemble]
) -> None:
    known = {"model": model, "folder": folder, "ensembles": ensembles, "tiny": TINY}
    example.globs = known | {"protein_cvae": protein_cvae}
    runner = doctest.DocTestRunner()
    assert runner.run(example).failed == 0


def test_every_public_function_has_an_example() -> None:
    verbs = {
        "fitting.fit",
        "pl.flexibility",
        "pl.traces",
        "trained.load",
        "trained.read",
        "trained.write",
    }
    verbs |= {
        f"trained.ProteinModel.{v}" for v in ("generate", "interpolate", "encode", "evaluate")
    }
    assert {f"protein_cvae.{v}" for v in verbs} <= {test.name for test in EXAMPLES}


def test_names_are_there_and_the_import_is_light() -> None:
    for name in protein_cvae.__all__:
        assert getattr(protein_cvae, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = protein_cvae.nothing
    code = (
        "import sys, protein_cvae, protein_cvae.commands; "
        "print(*{'torch', 'lightning', 'scipy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def test_fit_is_lightning_fit(
    model: use.ProteinModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((ROOT / "configs/protein_cvae/fit.yaml").read_text())
    config["model"]["init_args"] |= {
        "network": {**SIZES, "d_global": 8},
        "export": str(tmp_path / "model.ckpt"),
    }
    config["data"]["init_args"] |= {
        "sources": {"structures": sorted(map(str, folder.glob("*.pdb")))},
        "simulate": None,
        "draws": {"batch_proteins": 2, "per_epoch": 4},
        "num_workers": 0,
    }
    config["trainer"] |= {
        "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False,
        "default_root_dir": str(tmp_path),
    }  # fmt: skip
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["lightning"])
    cli.main(["fit", "--config", str(tmp_path / "fit.yaml")])
    ours, theirs = weights(model.checkpoint), weights(tmp_path / "model.ckpt")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_last_checkpoint_is_that_of_the_last_epoch_not_of_the_best(
    folder: Path, tmp_path: Path
) -> None:
    """A learning rate that spoils the second epoch; what is resumed from must not be the first."""
    hasty = dataclasses.replace(TINY, optimizer=OptimizerSettings(lr=1.0, lr_final=1.0))
    files = sorted(map(str, folder.glob("*.pdb")))
    model = protein_cvae.fit(files, tmp_path, hasty, epochs=2, accelerator="cpu", progress=False)
    (last,) = tmp_path.rglob("last.ckpt")
    (best,) = tmp_path.rglob("best-epoch=*.ckpt")
    epochs = [torch.load(path, weights_only=True)["epoch"] for path in (last, best)]
    assert epochs == [1, 0]
    exported, kept = weights(model.checkpoint), weights(best)
    assert all(torch.equal(exported[name], kept[name]) for name in exported)


def test_ensembles_in_memory_are_as_good_as_files(
    model: use.ProteinModel, folder: Path, tmp_path: Path
) -> None:
    given = [protein_cvae.read(path) for path in sorted(folder.glob("*.pdb"))]
    before = [ensemble.coordinates.clone() for ensemble in given]
    again = protein_cvae.fit(given, tmp_path, TINY, progress=False)
    ours, theirs = again.network.state_dict(), model.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(old, e.coordinates) for old, e in zip(before, given, strict=True))
    one = model.generate(given[0], GenerateOptions(count=2, seed=3))
    two = model.generate(folder / f"{given[0].name}.pdb", GenerateOptions(count=2, seed=3))
    assert torch.equal(one.coordinates, two.coordinates)


def test_a_model_does_what_predict_does(command: Command, trained: Path, tmp_path: Path) -> None:
    loaded, given = protein_cvae.load(trained / "model.ckpt"), structure_file(trained)
    ours = tmp_path / "ours.pdb"
    protein_cvae.write(ours, loaded.generate(given, GenerateOptions(count=3, seed=5)))
    path = command("generate", "theirs.pdb", input=given, count=3, seed=5)
    assert ours.read_bytes() == path.read_bytes()
    protein_cvae.write(ours, loaded.interpolate(given, given, 4))
    assert (
        ours.read_bytes() == command("interpolate", "path.pdb", input=given, steps=4).read_bytes()
    )
    found = loaded.encode(given)
    with np.load(command("encode", "z.npz", input=given), allow_pickle=False) as stored:
        for field in dataclasses.fields(found):
            assert np.array_equal(stored[field.name], np.array(getattr(found, field.name)))


def rows_without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_evaluate_is_lightning_test(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EvaluationSettings(count=2, figures=0)
    model = protein_cvae.load(trained / "model.ckpt")
    rows = model.evaluate(str(trained), tmp_path / "ours", settings)
    assert {row["group"] for row in rows} == {"known"}
    monkeypatch.setattr(sys, "argv", ["lightning"])
    cli.main([
        "test", "--config", str(trained / "fit.yaml"), "--ckpt_path", str(trained / "model.ckpt"),
        "--model.init_args.evaluation.count=2", "--model.init_args.evaluation.figures=0",
        f"--model.init_args.evaluation.output={tmp_path / 'theirs'}",
    ])  # fmt: skip
    ours, theirs = (
        rows_without_times(tmp_path / name / "evaluation.jsonl") for name in ("ours", "theirs")
    )
    assert ours == theirs
    with pytest.raises(ValueError, match="also a training model of"):
        model.evaluate(str(trained), tmp_path / "x", settings, SplitSettings(seed=1))


def test_what_is_no_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        protein_cvae.load(tmp_path / "absent.ckpt")
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(ValueError, match=r"text\.ckpt is damaged, or no checkpoint"):
        protein_cvae.load(tmp_path / "text.ckpt")
    content = torch.load(trained / "model.ckpt", weights_only=True)
    for change, message in (
        ({"hyper_parameters": {"_class_path": "other.Model"}}, r"a checkpoint of other\.Model"),
        ({"state_dict": {}}, "does not hold the weights"),
    ):
        torch.save(content | change, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=message):
            protein_cvae.load(tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="size must be one of laptop, full, trajectory"):
        protein_cvae.fit(str(trained), tmp_path, "huge")  # type: ignore[arg-type]


def test_settings_of_older_checkpoints_are_read_one_by_one(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "model.ckpt", weights_only=True)
    flat = dict(content["hyper_parameters"])
    flat |= flat.pop("network") | flat.pop("optimizer")
    torch.save(content | {"hyper_parameters": flat}, tmp_path / "old.ckpt")
    old = protein_cvae.load(tmp_path / "old.ckpt")
    assert old.settings == protein_cvae.load(trained / "model.ckpt").settings
