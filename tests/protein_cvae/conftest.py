"""A tiny network, a protein, and a checkpoint of a short training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from protein_data import PROTEINS
from protein_data import make_ensemble as make_helix
from protein_runs import GROUPS, ROOT, SIZES, Command, tiny_network

from common.cli import main as cli
from common.cli.messages import TRACEBACK_VARIABLE
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.io import write_ensemble
from protein_cvae.model.network import ProteinCVAE


@pytest.fixture(scope="session")
def network() -> ProteinCVAE:
    return tiny_network()


@pytest.fixture(scope="session")
def protein() -> Ensemble:
    """Six models of 26 residues."""
    (ensemble,) = simulate_ensembles(1, 6, 26, 26, seed=3)
    return ensemble


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of a short training, made by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    for ensemble in simulate_ensembles(2, 6, 24, 26, seed=3):
        write_ensemble(folder / f"{ensemble.name}.pdb", ensemble)
    data = {
        "sources": {"structures": [str(folder)]},
        "draws": {"per_epoch": 1, "batch_proteins": 1},
    }
    config = {
        "model": {
            "class_path": "protein_cvae.ProteinCVAEModule",
            "init_args": {"network": SIZES, "export": str(folder / "model.ckpt")},
        },
        "data": {
            "class_path": "protein_cvae.EnsembleDataModule",
            "init_args": data,
        },
        "trainer": {
            "max_epochs": 1, "limit_val_batches": 0, "logger": False, "accelerator": "cpu",
            "enable_checkpointing": False, "default_root_dir": str(folder / "run"),
            "enable_progress_bar": False, "enable_model_summary": False,
        },
    }  # fmt: skip
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning"])
        cli.main(["fit", "--config", str(folder / "fit.yaml")])
    assert (folder / "model.ckpt").is_file()
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Path) -> Command:
    """``lightning predict`` with the config of a task; returns what it wrote."""
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)

    def run(task: str, output: str, **options: object) -> Path:
        path = tmp_path / output
        groups = {name: group for group, names in GROUPS.items() for name in names}
        named = {
            f"{groups[key]}.{key}" if key in groups else key: value
            for key, value in options.items()
        }
        arguments = {"output": str(path)} | named
        cli.main(
            [
                "predict",
                *("--config", str(ROOT / "configs" / "protein_cvae" / f"{task}.yaml")),
                *("--ckpt_path", str(trained / "model.ckpt")),
                *(f"--data.init_args.{key}={value}" for key, value in arguments.items()),
                "--trainer.accelerator=cpu",
                "--trainer.enable_progress_bar=false",
                f"--trainer.default_root_dir={tmp_path / 'run'}",
            ]
        )
        return path

    return run


@pytest.fixture(scope="session")
def protein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures")
    for i, (name, (chains, models)) in enumerate(PROTEINS.items()):
        suffix = (".pdb", ".cif.gz")[i % 2]
        write_ensemble(folder / f"{name}{suffix}", make_helix(name, chains, models))
    return folder
