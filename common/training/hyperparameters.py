"""Hyperparameters as a checkpoint may hold them: plain types, which load without running code."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass

from lightning.pytorch import LightningModule


def make_plain(module: LightningModule) -> None:
    """Turn settings that ``save_hyperparameters`` took as dataclasses into dictionaries.

    From the command line they come as dictionaries already.
    """
    for name, value in module.hparams.items():
        if is_dataclass(value) and not isinstance(value, type):
            module.hparams[name] = asdict(value)
