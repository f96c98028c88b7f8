"""Options of the short commands, and of the modules, reach the reader."""

from __future__ import annotations

import argparse

import pytest

from spatial_ipa import commands
from spatial_ipa.commands import COMMANDS
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.training.datamodule import SlideDataModule


def keys_of(*words: str) -> SlideKeys:
    (command,) = [c for c in COMMANDS if words[: len(c.path)] == c.path]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return commands._keys_of(parser.parse_args(words[len(command.path) :]))


def test_short_commands_name_what_is_read() -> None:
    options = ["--layer", "counts", "--values", "counts", "--keep-off-tissue"]
    assert keys_of("place", "a", "-o", "b", *options) == SlideKeys(
        "counts", values="counts", keep_off_tissue=True
    )
    options += ["--spatial-key", "x,y", "--section-key", "batch", "--drop-coincident"]
    everything = SlideKeys("counts", None, "x,y", "batch", "counts", True, True)
    assert keys_of("fit", "spatial", "a", "-o", "b", *options) == everything
    assert keys_of("evaluate", "spatial", "a", *options) == everything
    assert keys_of("evaluate", "spatial", "a") == SlideKeys()


@pytest.mark.parametrize("one", ["my/A.h5ad", ["my/A.h5ad"]])
def test_modules_take_one_path_for_a_list(one: str | list[str]) -> None:
    inputs = SlideDataModule(one, one, scrna=one).inputs
    assert (inputs.train, inputs.heldout, inputs.scrna) == (["my/A.h5ad"],) * 3
    data = EncoderDataModule(one, one, one)
    assert data.train_files == data.heldout_files == data.scrna_files == ["my/A.h5ad"]
