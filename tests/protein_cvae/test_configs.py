"""Each configuration builds what it says; three of them are the sizes of the front door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from protein_runs import ROOT

import protein_cvae
from protein_cvae import presets
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.generation.commands.encode import EncodeDataModule
from protein_cvae.generation.commands.generate import GenerateDataModule
from protein_cvae.generation.commands.interpolate import InterpolateDataModule
from protein_cvae.module import ProteinCVAEModule

FOLDER = ROOT / "configs" / "protein_cvae"
TASKS = {
    "generate": GenerateDataModule,
    "interpolate": InterpolateDataModule,
    "encode": EncodeDataModule,
}
LAYERS = {
    "full": ("fit",),
    "laptop": ("fit", "laptop"),
    "trajectory": ("fit", "laptop", "trajectory"),
    "evaluate": ("fit", "evaluate"),
    **{task: (task,) for task in TASKS},
}


def over(base: Any, new: Any) -> Any:
    """One configuration laid over another, as the command line does."""
    if isinstance(base, dict) and isinstance(new, dict):
        return base | {key: over(base.get(key), value) for key, value in new.items()}
    return new


def config_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in LAYERS[name]:
        found = over(found, yaml.safe_load((FOLDER / f"{layer}.yaml").read_text()))
    return found


def built(name: str, part: str, tmp_path: Path) -> Any:
    """The model or the data of a configuration."""
    config = config_of(name)
    if name in TASKS and part == "data":  # an output must not exist, an input need not
        output = Path(config["data"]["init_args"]["output"])
        config["data"]["init_args"]["output"] = str(tmp_path / output.name)
    parser = ArgumentParser(exit_on_error=False)
    base = {"model": pl.LightningModule, "data": pl.LightningDataModule}[part]
    parser.add_subclass_arguments(base, part)
    return getattr(parser.instantiate_classes(parser.parse_object({part: config[part]})), part)


def test_every_configuration_is_tested() -> None:
    layers = {layer for names in LAYERS.values() for layer in names}
    assert layers == {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_configuration_builds_its_classes(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):  # sizes without the seconds that weights take
        assert isinstance(built(name, "model", tmp_path), ProteinCVAEModule)
    assert isinstance(built(name, "data", tmp_path), TASKS.get(name, EnsembleDataModule))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("size", list(presets.PRESETS))
def test_the_sizes_are_those_of_the_configurations(size: str) -> None:
    config, preset = config_of(size), presets.PRESETS[size]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    for group in ("network", "weights", "kl", "rate", "optimizer"):
        parser.add_argument(f"--{group}", type=type(getattr(preset, group)))
    given = config["model"]["init_args"]
    groups = {g: given[g] for g in ("network", "weights", "kl", "rate", "optimizer")}
    found = parser.instantiate_classes(parser.parse_object({"data": config["data"]} | groups))
    for group in groups:
        assert getattr(found, group) == getattr(preset, group)
    data = found.data
    assert isinstance(data, EnsembleDataModule)
    assert data.draws == preset.draws
    assert (data.num_workers, data.pin_memory) == (preset.num_workers, False)
    for ours, theirs in ((data.sources, preset.sources), (data.split_settings, preset.split)):
        assert {k: v or () for k, v in vars(ours).items()} == {
            k: v or () for k, v in vars(theirs).items()
        }
    assert config["threads"] == preset.threads
    assert given["seed"] == 0
    trainer = config["trainer"]
    assert (trainer["max_epochs"], config["seed_everything"]) == (preset.max_epochs, preset.seed)
    assert (trainer["gradient_clip_val"], trainer["log_every_n_steps"]) == (1.0, 10)


@pytest.mark.parametrize("task", list(TASKS))
def test_each_key_of_a_task_is_an_option_with_its_default(task: str) -> None:
    given = config_of(task)["data"]["init_args"]
    kind = TASKS[task]
    assert set(given) == kind.__init__.__annotations__.keys() - {"return"}
    defaults = kind.__init__.__defaults__ or ()
    names = kind.__init__.__code__.co_varnames[: kind.__init__.__code__.co_argcount]
    for name, default in zip(names[-len(defaults) :], defaults, strict=True):
        if hasattr(default, "__dataclass_fields__"):
            assert given[name] == vars(default), (task, name)
        elif name != "input":
            assert given[name] == default, (task, name)


def test_classes_have_short_paths() -> None:
    for name in LAYERS:
        for part in ("model", "data"):
            path = config_of(name)[part]["class_path"]
            assert path.removeprefix("protein_cvae.") in protein_cvae.__all__
