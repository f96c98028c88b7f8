"""Shipped configurations: each builds its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from jsonargparse import ArgumentParser

from spatial_ipa.data.simulation.files import SimulatedTissue

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "spatial_ipa"


def content(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return read


def built(config: dict[str, Any], folder: Path) -> Any:
    """Model and data module, as the command line makes them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    parts = {key: value for key, value in config.items() if key in ("model", "data")}
    return parser.instantiate(parser.parse_object(parts))


@pytest.mark.parametrize("name", ["encoder", "fit", "predict"])
def test_every_configuration_builds_its_objects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    config = content(name)
    objects = built(config, tmp_path)
    assert type(objects.model).__name__ == config["model"]["class_path"].rpartition(".")[2]
    assert type(objects.data).__name__ == config["data"]["class_path"].rpartition(".")[2]


def test_a_simulated_tissue_is_that_of_its_spec(tmp_path: Path) -> None:
    sizes = {"num_slides": 1, "spots_per_slide": 60, "num_genes": 100, "num_cells": 10}
    paths = SimulatedTissue(**sizes, folder=str(tmp_path / "t")).ensure()  # type: ignore[arg-type]
    assert all(path.exists() for path in paths.every)
