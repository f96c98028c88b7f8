"""A training step: gradients, noise, items of no weight."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_batches import (
    SMALL,
    conformer,
)

from protein_cvae.data.batch import collate
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule


class Training(ProteinCVAEModule):
    """A module in the middle of a training, without a trainer."""

    global_step = 7

    def progress(self) -> float:
        return 0.5

    def kl_weight(self) -> float:
        return 0.7

    def log(self, *args: object, **options: object) -> None:
        pass

    def log_dict(self, *args: object, **options: object) -> None:
        pass


@pytest.mark.parametrize("design", ["shared", "separate"])
@pytest.mark.parametrize("templated", [True, False], ids=["all templated", "one without"])
def test_a_training_step_gives_every_parameter_a_finite_gradient(design, templated):
    """Also what DDP asks for: no parameter without a gradient, whatever the process was dealt."""
    module = Training(NetworkSettings(sequence_design=design, **SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1, templated=templated)]
    items.append(conformer(21, 2, sequence=False))
    batch = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    module.training_step(batch, 0).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_training_step_repeats_and_its_noise_ignores_the_neighbours():
    module = Training(NetworkSettings(**SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1)]
    batch = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    assert torch.equal(module.training_step(batch, 0), module.training_step(batch, 0))
    together, alone = (module.model.noise(x, 0, 3, 0) for x in (batch, items[0]))
    assert torch.equal(together.z_global[:1], alone.z_global)
    assert torch.equal(together.shift[:1, :18], alone.shift)
    assert torch.equal(together.turn[:1, :18], alone.turn)
    assert not torch.equal(module.model.noise(batch, 0, 4, 0).shift, together.shift)


def test_noise_levels_are_drawn_for_every_conformer_and_step():
    module = Training(NetworkSettings(**SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1)]
    batch = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    found = module._levels(batch)
    assert torch.equal(found[:1], module._levels(items[0]))
    assert len(found.unique()) == found.numel()
    module.global_step = 8
    assert not bool((module._levels(batch)[:, 0] == found[:, 0]).any())


def test_noise_is_drawn_on_the_device_of_the_batch():
    """On the one without storage, which stands for a GPU: a copy to the CPU would raise."""
    module = Training(NetworkSettings(**SMALL))
    batch = conformer(18, 0)
    noise = module.model.noise(batch.to("meta"), 0, 3, 0)
    assert {getattr(noise, f.name).device.type for f in dataclasses.fields(noise)} == {"meta"}


@pytest.mark.parametrize("design", ["shared", "separate"])
def test_an_item_of_weight_zero_counts_for_nothing(design):
    """Samplers fill batches up with them; a score that saw them would depend on the processes."""
    module = Training(NetworkSettings(sequence_design=design, **SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1)]
    filler = dataclasses.replace(conformer(21, 2), weight=torch.zeros(1, dtype=torch.float64))
    module.eval()
    with torch.no_grad():
        without = module.scores(collate(items)).values
        filled = module.scores(collate([*items, filler])).values
    assert {"loss", "kl_global", "kl_shift", "kl_turn", "kl_free", "coil"} <= set(without)
    for name, value in without.items():
        torch.testing.assert_close(filled[name], value, msg=lambda m, n=name: f"{n}: {m}")
