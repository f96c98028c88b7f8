"""The file a fit ends with: the selected checkpoint, completed by what the model needs in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from common.errors import UserError
from common.files.atomic import atomic_path
from common.files.checkpoint import read_checkpoint
from common.files.outputs import prepare_output, set_aside
from common.training.callbacks import best_checkpoint

Checkpoint = dict[str, Any]


class ExportCheckpoint(Callback):
    """Copies the selected checkpoint to a file when a fit ends.

    Selected is the best one by the monitor that some ModelCheckpoint kept, else the last weights.
    A LightningModule returns it from ``configure_callbacks``.  A file that another fit has left
    there, with other weights, is kept under a numbered name.

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
        new = self.path.with_name(f".{self.path.name}.new")  # of all ranks, so without a process id
        if not best:
            trainer.save_checkpoint(new)  # on every rank: some strategies gather
        elif trainer.is_global_zero:
            shutil.copyfile(best, new)
        if not trainer.is_global_zero:
            return
        if self.path.exists() and not _same_weights(self.path, new):
            rank_zero_info(f"{self.path} of an earlier fit is kept as {set_aside(self.path)}")
        os.replace(new, self.path)
        if self.complete is not None:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            self.complete(checkpoint)
            with atomic_path(self.path) as temporary:
                torch.save(checkpoint, temporary)


def _same_weights(*paths: Path) -> bool:
    """Whether two files hold the same weights; False if one cannot be read."""
    try:
        first, second = (read_checkpoint(path, mmap=True)["state_dict"] for path in paths)
        return first.keys() == second.keys() and all(
            torch.equal(value, second[name]) for name, value in first.items()
        )
    except (UserError, KeyError, TypeError):
        return False
