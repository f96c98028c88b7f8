"""The resolved configuration of every run, beside its logs, and the run's mark in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from common.cli.runs import RUN_KEY, RunRecord


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config_<subcommand>.yaml`` in the log folder, numbered where one exists.

    Lightning's own callback raises there, also on resume and on ``predict`` in the same folder.
    Checkpoints of a fit are marked with the run that they belong to.

    Args:
        parser, config: of the subcommand.
        record: of the run.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, record: RunRecord
    ) -> None:
        super().__init__(parser, config)
        self.record = record

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        log_dir = trainer.log_dir  # a broadcast: every rank has to read it
        if self.already_saved or log_dir is None:
            return
        self.already_saved = True
        if not trainer.is_global_zero:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name, number = f"config_{TrainerFn(stage).value}", 1
        path = folder / f"{name}.yaml"
        while path.exists():
            number += 1
            path = folder / f"{name}_{number}.yaml"
        self.parser.save(self.config, str(path), multifile=False)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[RUN_KEY] = self.record.state()
