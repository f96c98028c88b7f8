"""Training steps and settings of the module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.losses import LossWeights, geometry_terms, loss_gate
from spatial_ipa.model.minisets import Augmentation, MinisetDataset, collate
from spatial_ipa.model.network import Form, NetworkSettings
from spatial_ipa.model.pair import GraphMode
from spatial_ipa.model.targets import GateWalk, gate_target
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings

D = 8


def learnable_slide(name: str, n: int = 150, seed: int = 0) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the coordinates plus two columns of noise."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    waves = [f(np.pi * xy) for f in (np.sin, np.cos)]
    h = np.concatenate([2 * xy - 1, *waves, 0.3 * rng.standard_normal((n, 2))], 1)
    start = (2 * xy - 1 + 0.3 * rng.standard_normal((n, 2))).astype(np.float32)
    return EmbeddedSlide(name, h.astype(np.float32), xy.astype(np.float32), start=start)


FORMS = pytest.mark.parametrize("form", ["points", "states"])


class MidTraining(SpatialIPAModule):
    """A module past its ramp, without a trainer."""

    current_epoch = 9

    def log(self, *args: object, **options: object) -> None:
        pass


@FORMS
@pytest.mark.parametrize("graph", ["gated", "candidates", "true"])
def test_every_parameter_gets_a_gradient(form: Form, graph: GraphMode) -> None:
    """DDP refuses those that do not."""
    data = MinisetDataset([learnable_slide("a")], 2, 60, 80, 40, 0, None, Augmentation())
    module = MidTraining(NetworkSettings(D, form=form), graph)
    module.training_step(collate([data[0], data[1]]), 0).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


@FORMS
def test_two_threads_give_the_same_gradients_every_time(form: Form, two_threads: None) -> None:
    """At a size where PyTorch shares gathers among threads (32,768 numbers and more)."""
    slide = learnable_slide("a", n=600)
    data = MinisetDataset([slide], 3, 384, 384, 60, 0, None, Augmentation())
    batch = collate([data[i] for i in range(3)])
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D, form=form))
    found = []
    for _ in range(4):
        module.zero_grad()
        layout, edges, logit = module(batch)
        assert logit is not None
        loss = geometry_terms(layout.x, batch.target).energy(LossWeights()).mean()
        loss = loss + loss_gate(logit, edges, batch.wanted, batch.target).mean()
        loss.backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(module.parameters()))
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


@FORMS
def test_the_procrustes_term_enters_the_loss_with_its_weight(form: Form) -> None:
    data = MinisetDataset([learnable_slide("a")], 2, 60, 80, 40)
    batch = collate([data[0], data[1]])
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        module = MidTraining(NetworkSettings(D, form=form), weights=LossWeights(procrustes=weight))
        losses.append(module.training_step(batch, 0))
    term = geometry_terms(module(batch)[0].x, batch.target)["procrustes"].mean()
    assert term > 0.05
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * term)


def test_one_recycle_is_refused_on_several_processes() -> None:
    """One pass leaves the state update without gradient, which DDP would refuse less clearly."""
    module = SpatialIPAModule(NetworkSettings(recycles=1, form="states"))
    for world_size in (1, 2):
        trainer = cast(pl.Trainer, SimpleNamespace(max_epochs=1, world_size=world_size))
        if world_size == 1:
            module.check_settings(trainer)
        else:
            with pytest.raises(ValueError, match="recycles must be at least 2 on several proc"):
                module.check_settings(trainer)


def test_unshared_blocks_are_refused_on_several_processes() -> None:
    module = SpatialIPAModule(NetworkSettings(form="states", block="unshared"))
    for world_size in (1, 2):
        trainer = cast(pl.Trainer, SimpleNamespace(max_epochs=1, world_size=world_size))
        if world_size == 1:
            module.check_settings(trainer)
        else:
            with pytest.raises(ValueError, match="block not unshared"):
                module.check_settings(trainer)


@pytest.mark.parametrize(
    "option",
    [
        {"qk": False}, {"point_offsets": 2}, {"pair_bias": True}, {"gate_heads": "own"},
        {"block": "frames"},
    ],
)  # fmt: skip
def test_options_give_every_parameter_a_gradient(option: dict[str, object]) -> None:
    """On several processes, too: DDP refuses those without."""
    data = MinisetDataset([learnable_slide("a")], 2, 60, 80, 40, 0, None, Augmentation())
    settings = NetworkSettings(D, form="states", **option)  # type: ignore[arg-type]
    module = MidTraining(settings, "gated")
    module.training_step(collate([data[0], data[1]]), 0).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("walk", ["two_steps", "mixed"])
def test_a_gate_is_taught_the_walk_of_the_settings(walk: GateWalk) -> None:
    slide = learnable_slide("a")
    data = MinisetDataModule([slide], [], MinisetSettings(gate_walk=walk, size_max=100))
    item = data.train_dataset()[0]
    torch.testing.assert_close(item.wanted, gate_target(item.target, item.candidates, walk))
    assert not torch.equal(item.wanted, gate_target(item.target, item.candidates))
    with pytest.raises(ValueError, match="gate_walk must be one of one_step, two_steps, mixed"):
        MinisetSettings(gate_walk="three")  # type: ignore[arg-type]


def test_settings_of_before_there_were_forms_are_of_states() -> None:
    """Grouped or one by one; those of today keep theirs, and checkpoints without a network too."""
    convert = SpatialIPAModule.convert_hyperparameters
    for found in ({"network": {"c_s": 16}}, {"c_s": 16}):
        assert convert(found)["network"] == {"c_s": 16, "form": "states"}
    now = {"network": {"heads": 2, "form": "points"}, "graph": "gated"}
    assert convert(now) == now
    assert convert({"graph": "gated"}) == {"graph": "gated"}
