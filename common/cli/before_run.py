"""What is settled between building the Trainer and running it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from common.cli.checkpoints import KEYWORDS, complaint_about
from common.cli.resume import continue_logs
from common.cli.runs import Found, refuse_foreign_hpc
from common.errors import UserError

_SHARDING = ("fsdp", "deepspeed", "modelparallel")


def refuse_strategy(strategy: object) -> None:
    """Refuse strategies that share parameters out among processes.

    Raises:
        UserError: naming it.
    """
    given = strategy.get("class_path") if isinstance(strategy, Mapping | Namespace) else strategy
    name = str(given).rpartition(".")[2]
    if name.lower().replace("_", "").startswith(_SHARDING):
        raise UserError(
            f"trainer.strategy {name} is not supported: every process must hold all parameters; "
            "use auto, or ddp on several devices"
        )


def started_tasks(devices: int) -> int | None:
    """How many processes a launcher has started for this run; None without one.

    In a job script, outside srun, SLURM's number is that of the job: a single process is no mistake
    there.
    """
    if SLURMEnvironment.detect():
        found = os.environ.get("SLURM_STEP_NUM_TASKS")
        if found is None and devices > 1:
            found = os.environ["SLURM_NTASKS"]
    else:
        found = os.environ.get("WORLD_SIZE") if TorchElasticEnvironment.detect() else None
    return None if found is None else int(found)


def refuse_other_tasks(trainer: Trainer) -> None:
    """Refuse a launcher that has started other processes than the configuration has devices.

    On one device each of them would train alone, into the same files.

    Raises:
        UserError: naming both numbers.
    """
    devices = trainer.num_devices * trainer.num_nodes
    tasks = started_tasks(devices)
    if tasks is not None and tasks != devices:
        raise UserError(
            f"the launcher has started {tasks} process(es), but trainer.devices "
            f"{trainer.num_devices} times trainer.num_nodes {trainer.num_nodes} is {devices}: each "
            "process has one device; give --trainer.num_nodes and --trainer.devices (of a node) as "
            "srun or torchrun has them, and nothing to place or predict to more than one process"
        )


class BeforeRun:
    """Gives the run a folder of its own, and settles which checkpoint is loaded.

    Args:
        trainer: just built.
        subcommand: about to run.
        options: of the subcommand; ``ckpt_path`` is replaced in place.
    """

    def __init__(self, trainer: Trainer, subcommand: str, options: Namespace) -> None:
        self.trainer, self.subcommand, self.options = trainer, subcommand, options

    def prepare(self, requested: Mapping[str, Any], resumed: Found | None) -> None:
        """Settle it.

        Args:
            requested: settings of the model.
            resumed: where a fit goes on from.

        Raises:
            UserError: if the checkpoint does not exist or is of another run or model.
        """
        trainer = self.trainer
        refuse_other_tasks(trainer)
        # What Lightning writes and looks for by itself belongs to the run, not to all of them.
        folder = str(trainer.log_dir or trainer.default_root_dir)
        trainer._default_root_dir = folder  # type: ignore[attr-defined]
        ckpt_path = self.options.get("ckpt_path")
        if ckpt_path in KEYWORDS and ckpt_path != "registry":
            path = self._named(ckpt_path)
            complaint = complaint_about(path, requested.get("class_path"))
            if complaint is not None:
                raise UserError(f"--ckpt_path {ckpt_path}: {complaint}")
            self.options["ckpt_path"] = str(path)
        elif ckpt_path is None and SLURMEnvironment.detect():
            refuse_foreign_hpc(Path(trainer.default_root_dir))
        if resumed is not None:
            continue_logs(trainer.loggers, resumed.step)

    def _named(self, keyword: str) -> Path:
        """The file that a keyword of Lightning's stands for."""
        connector, fitting = self.trainer._checkpoint_connector, self.subcommand == "fit"
        function = TrainerFn(self.subcommand)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = connector._parse_ckpt_path(function, keyword, True, False)
        except ValueError:
            found = None
        if found is None:
            advice = "to go on with a run, give --resume" if fitting else "give the file"
            raise UserError(
                f"--ckpt_path {keyword}: there is no such checkpoint in "
                f"{self.trainer.default_root_dir}, the folder of this run; {advice}"
            )
        return Path(found)
