"""Settings of the joint training, by subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from common.errors import UserError
from common.training.hyperparameters import regroup
from common.training.scaling import Scaling, check_scaling
from spatial_ipa.data.keys import read_null
from spatial_ipa.model.minisets import Augmentation, check_sizes
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.targets import GateWalk


@dataclass(frozen=True)
class MinisetSettings:
    """How minisets are drawn.

    Attributes:
        per_epoch: training minisets per epoch over all processes, balanced over slides.
        val_per_slide: validation minisets of each held-out slide, the same in every epoch.
        batch_size: minisets per step and process; with ``scaling=batch`` of all processes together.
        scaling: what changes with the number of processes (:mod:`common.training.scaling`).
        size_min: smallest miniset.
        size_max: largest miniset.
        num_candidates: k of the candidate graph in the embeddings.
        num_rows: rows per miniset whose random walks are compared in training; null for all.
            Validation always compares all.
        augmentation: noise and drops in training.
        gate_walk: random walk on the true layout that the gate is taught: ``one_step``,
            ``two_steps`` or ``mixed`` (:func:`~spatial_ipa.model.targets.gate_target`).
        num_workers: loader processes.
        seed: of all draws.

    Raises:
        ValueError: on a value out of range.
    """

    per_epoch: int = 1000
    val_per_slide: int = 50
    batch_size: int = 8
    scaling: Scaling = "none"
    size_min: int = 96
    size_max: int = 384
    num_candidates: int = 100
    num_rows: int | None = None
    augmentation: Augmentation = Augmentation()
    gate_walk: GateWalk = "one_step"
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("per_epoch", "val_per_slide", "batch_size", "num_candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_rows is not None and self.num_rows < 1:
            raise UserError(f"num_rows must be at least 1, got {self.num_rows}; null for all")
        if self.gate_walk not in get_args(GateWalk):
            choices = ", ".join(get_args(GateWalk))
            raise UserError(f"gate_walk must be one of {choices}, got {self.gate_walk!r}")
        check_sizes(self.size_min, self.size_max)
        check_scaling(self.scaling)


@dataclass(frozen=True)
class Schedule:
    """Lengths and rates of the training.

    Attributes:
        gate_steps: steps of gate pretraining.
        lr: learning rate of AdamW; 5e-4 for network.form=states.
        lr_final: end of the cosine decay over ``trainer.max_epochs``.
        weight_decay: of AdamW.
        ramp_epochs: epochs in which the weight of the walks rises from 0 to its final value; with 0
            epoch 1 is the first at that value.

    Raises:
        ValueError: on a negative number of epochs.
    """

    gate_steps: int = 500
    lr: float = 1e-2
    lr_final: float = 2e-4
    weight_decay: float = 5e-4
    ramp_epochs: int = 6

    def __post_init__(self) -> None:
        if self.ramp_epochs < 0:
            raise UserError(f"ramp_epochs must not be negative, got {self.ramp_epochs}")


@dataclass(frozen=True)
class EncoderFile:
    """The frozen encoder of a training.

    Attributes:
        path: weights written by ``lightning fit --config configs/spatial_ipa/encoder.yaml``.
        config: configuration that trains it on the slides given if ``path`` does not exist; null
            to refuse instead.
        cache: folder of the cache of embeddings.
    """

    path: str = "runs/encoder.pt"
    config: str | None = None
    cache: str = "runs/cache"

    def __post_init__(self) -> None:
        read_null(self)


def regroup_hyperparameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a checkpoint that stand one by one, as the module's constructor has them.

    ``rw_cap`` and ``w_procrustes`` are the weights of the walks and of the Procrustes error.  A
    network without a form is of the one that was the only one.
    """
    weights = {"rw_cap": ("weights", "rw"), "w_procrustes": ("weights", "procrustes")}
    given = regroup(found, {"network": NetworkSettings, "schedule": Schedule}, weights)
    if "network" in given:
        given["network"] = {"form": "states", **given["network"]}
    return given
