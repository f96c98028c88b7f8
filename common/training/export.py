"""The file a fit ends with: the selected checkpoint, completed by what the model needs in use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.files.atomic import atomic_path
from common.files.outputs import prepare_output
from common.training.callbacks import best_checkpoint

Checkpoint = dict[str, Any]


class ExportCheckpoint(Callback):
    """Copies the selected checkpoint to a file when a fit ends.

    Selected is the best one by the monitor that some ModelCheckpoint kept, else the last weights.
    A LightningModule returns it from ``configure_callbacks``.

    Args:
        path: the file; its folder is made, and checked, before anything is trained.
        monitor: key of the selection, such as ``"val/loss"``.
        complete: given the content of the selected checkpoint, puts in what the training alone
            does not need, from those weights and no others; on rank zero only.  The plain copy is
            written first: whatever fails then, the trained weights are there.
    """

    def __init__(
        self, path: Path, monitor: str, complete: Callable[[Checkpoint], None] | None = None
    ) -> None:
        self.path, self.monitor, self.complete = path, monitor, complete

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            prepare_output(self.path, "model.export")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        best = best_checkpoint(trainer, self.monitor)
        if not best:
            trainer.save_checkpoint(self.path)  # on every rank: some strategies gather
        elif trainer.is_global_zero:
            with atomic_path(self.path) as temporary:
                shutil.copyfile(best, temporary)
        if self.complete is not None and trainer.is_global_zero:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            self.complete(checkpoint)
            with atomic_path(self.path) as temporary:
                torch.save(checkpoint, temporary)
