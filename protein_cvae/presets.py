"""Sizes of training: what ``fit.yaml``, ``laptop.yaml`` and ``trajectory.yaml`` set.

They are in ``configs/protein_cvae``; the last one is laid over the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from protein_cvae.data.settings import DrawSettings, Sources, SplitSettings, TimeBlocks
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.model.kl import KLSettings
from protein_cvae.model.losses import LossWeights
from protein_cvae.model.rate import RateSettings
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import OptimizerSettings

Size = Literal["laptop", "full", "trajectory"]


@dataclass(frozen=True)
class Preset:
    """All settings of a training but the data themselves.

    Attributes:
        network, weights, kl, rate, optimizer, evaluation: of the module.
        sources, split, draws: of the data; the paths in ``sources`` are replaced.
        num_workers: loader processes.
        threads: compute threads while it trains; None for those of the process.
        max_epochs: passes over ``draws.per_epoch`` draws.
        seed: of initial weights; draws and noise have seeds of their own.
    """

    network: NetworkSettings = NetworkSettings()
    weights: LossWeights = LossWeights()
    kl: KLSettings = KLSettings()
    rate: RateSettings = RateSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    sources: Sources = Sources()
    split: SplitSettings = SplitSettings()
    draws: DrawSettings = DrawSettings()
    num_workers: int = 0
    threads: int | None = None
    max_epochs: int = 100
    seed: int = 0


FULL = Preset(
    draws=DrawSettings(batch_proteins=8, models_per_protein=4, per_epoch=2000), num_workers=4
)
LAPTOP = replace(
    FULL,
    network=NetworkSettings(
        width=128,
        layers=3,
        condition_layers=2,
        heads=4,
        feed_forward=256,
        hidden=64,
        decoder_layers=3,
        chain_neighbors=8,
        spatial_neighbors=12,
    ),
    optimizer=OptimizerSettings(lr=1e-3),
    sources=Sources(max_length=250),
    draws=DrawSettings(
        batch_proteins=4, models_per_protein=3, per_epoch=400, val_models_per_protein=1
    ),
    num_workers=1,
    threads=1,
    max_epochs=20,
)
TRAJECTORY = replace(
    LAPTOP,
    sources=Sources(max_length=400, max_frames=None, cache="runs/frames"),
    split=SplitSettings(blocks=TimeBlocks(count=10)),
    draws=replace(LAPTOP.draws, val_models_per_protein=24),
)
PRESETS: dict[str, Preset] = {"laptop": LAPTOP, "full": FULL, "trajectory": TRAJECTORY}
