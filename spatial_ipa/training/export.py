"""The file a fit ends with: the selected checkpoint, with what placing new cells needs besides.

Added to a copy of it are a sample of the training cells
(:mod:`spatial_ipa.confidence.reference_cells`) and, with validation slides, error radii
(:mod:`spatial_ipa.confidence.calibration`) of the selected weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.files.atomic import atomic_path
from common.training.callbacks import best_checkpoint
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.training.datamodule import MinisetDataModule

if TYPE_CHECKING:
    from spatial_ipa.training.module import SpatialIPAModule

MONITOR = "val/e_geo"


def export_checkpoint(module: SpatialIPAModule, path: Path) -> None:
    """Write the best checkpoint by the monitor, else the last weights; call it on every rank."""
    trainer = module.trainer
    data = getattr(trainer, "datamodule", None)
    best = best_checkpoint(trainer, MONITOR)
    if not best:
        if trainer.is_global_zero and isinstance(data, MinisetDataModule):
            _judge(module, data)
        trainer.save_checkpoint(path)
    elif trainer.is_global_zero:
        # Copied before it is added to: whatever fails then, the trained weights are there.
        with atomic_path(path) as temporary:
            shutil.copyfile(best, temporary)
        if isinstance(data, MinisetDataModule):
            checkpoint = torch.load(best, map_location="cpu", weights_only=True)
            plain = module.context
            with _weights(module, checkpoint["state_dict"]):
                _judge(module, data)
            module.on_save_checkpoint(checkpoint)
            module.context = plain  # the radii are those of the best weights, not of these
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)


def _judge(module: SpatialIPAModule, data: MinisetDataModule) -> None:
    """Put training cells and, with validation slides, error radii into the module's context."""
    if module.calibrates_on(data):
        module.calibrate(data.train, data.val, module.calibration_draws)
    elif module.context is not None:
        reference = ReferenceCells.sample(data.train)
        module.context = replace(module.context, reference=reference, calibration=None)


@contextmanager
def _weights(module: nn.Module, state: dict[str, Tensor]) -> Iterator[None]:
    """Other weights for a while."""
    own = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    try:
        yield
    finally:
        module.load_state_dict(own)
