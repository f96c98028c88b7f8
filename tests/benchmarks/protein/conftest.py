"""A configuration of simulated proteins, one of them unseen, and a checkpoint for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.record import DATA_KEY
from protein_cvae.data.settings import SimulationSettings, SplitSettings
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

_SIMULATION = {"num_proteins": 2, "num_models": 6, "min_length": 24, "max_length": 26}
_SIZES = NetworkSettings(
    width=16, layers=1, condition_layers=1, heads=2, feed_forward=16, d_global=4,
    hidden=8, decoder_layers=1, chain_neighbors=2, spatial_neighbors=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    data = {
        "class_path": "protein_cvae.EnsembleDataModule",
        "init_args": {"simulate": _SIMULATION, "split": {"families_held_out": ["simulated_0_1"]}},
    }
    model = {"class_path": "ignored", "init_args": {"network": asdict(_SIZES)}}
    path.write_text(yaml.safe_dump({"data": data, "model": model}))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that has been trained for no step, with the split of other data to refuse."""
    folder = tmp_path_factory.mktemp("model")
    data = EnsembleDataModule(
        simulate=SimulationSettings(**_SIMULATION), split=SplitSettings(("simulated_0_1",))
    )
    data.setup("fit")
    module = ProteinCVAEModule(_SIZES)
    torch.save(
        {
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            "pytorch-lightning_version": pl.__version__,
            DATA_KEY: data.record(),
        },
        folder / "model.ckpt",
    )
    return folder / "model.ckpt"
