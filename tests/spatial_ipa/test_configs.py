"""Shipped configurations: each builds its objects, and Python's recipes say the same."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from jsonargparse import ArgumentParser

from spatial_ipa.data.simulation.files import SimulatedTissue
from spatial_ipa.pipeline.recipes import ENCODER, FULL, LAPTOP, write_recipes

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


def settings_of(value: Any) -> Any:
    """Nested settings as dictionaries, without what names files."""
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {k: settings_of(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("names", [["encoder"], ["fit"], ["fit", "laptop"]])
def test_recipes_say_what_the_configurations_say(names: list[str], tmp_path: Path) -> None:
    """All settings of the objects, and all of the trainer but where it writes."""
    recipes = {"encoder": ENCODER, "fit": FULL, "laptop": LAPTOP}
    merged = []
    for source in (content, recipes.__getitem__):
        config: dict[str, Any] = {}
        for name in names:
            config = overlay(config, deepcopy(source(name)))
        merged.append(config)
    ours, written = (built(config, tmp_path) for config in merged)
    for part, ignored in (
        ("model", {"output", "export", "optimizer"}),
        ("data", {"inputs", "encoder_file", "simulate", "train_files", "heldout_files",
                  "scrna_files"}),
    ):  # fmt: skip
        values = [
            {
                name: settings_of(value)
                for name, value in vars(getattr(objects, part)).items()
                if (not name.startswith("_") and name not in ignored
                and isinstance(value, int | float | str | tuple | type(None) | dict))
                or (hasattr(value, "__dataclass_fields__") and name not in ignored)
            }
            for objects in (ours, written)
        ]  # fmt: skip
        assert values[0] == values[1]
        assert len(values[0]) > 3
    assert merged[0]["model"].get("init_args", {}).get("optimizer") == merged[1]["model"].get(
        "init_args", {}
    ).get("optimizer")
    trainers = [config["trainer"] for config in merged]
    for trainer in trainers:
        trainer["logger"]["init_args"].pop("save_dir")
    assert trainers[0] == trainers[1]


def overlay(below: Any, above: Any) -> Any:
    """A configuration with another laid over it."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: overlay(below.get(key), value) for key, value in above.items()}


def test_recipes_are_written_where_they_are_used(tmp_path: Path) -> None:
    encoder, joint = write_recipes(tmp_path, "laptop")
    assert [Path(path).name for path in (encoder, *joint)] == [
        "encoder.yaml", "fit.yaml", "laptop.yaml",
    ]  # fmt: skip
    assert yaml.safe_load(Path(joint[0]).read_text()) == FULL
    assert len(write_recipes(tmp_path, "full")[1]) == 1


def test_a_simulated_tissue_is_that_of_its_spec(tmp_path: Path) -> None:
    sizes = {"num_slides": 1, "spots_per_slide": 60, "num_genes": 100, "num_cells": 10}
    paths = SimulatedTissue(**sizes, folder=str(tmp_path / "t")).ensure()  # type: ignore[arg-type]
    assert all(path.exists() for path in paths.every)
