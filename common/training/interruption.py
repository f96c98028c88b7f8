"""Saving a fit that is about to be stopped from outside.

SIGTERM (a cluster's time limit, preemption, ``kill``) and, under SLURM, the signal that the job
asked for with ``--signal`` (SIGUSR1) write ``interrupted.ckpt`` in the folder of the run at the end
of the step under way.  Lightning writes its own in the middle of a step, which cannot be continued
exactly, and in a folder that all runs share.  After SIGTERM the fit ends, with status 143 on the
command line; after the other signal the job is put back in SLURM's queue and goes on until it is
stopped.

Rank zero alone writes, as soon as it knows of a signal: every process holds all parameters
(:mod:`common.training.checks`).  To end, all processes have to leave the same step, or those that
stay wait for the others for ever.  A signal reaches them at different moments, or one of them
alone, so a handler only remembers it, and they agree after every step.
Lightning's own handler of SIGTERM broadcasts from within whatever the process is doing, where it
meets the broadcasts and gradients of others: it is replaced.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import torch
import torch.distributed
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from common.files.atomic import atomic_path

INTERRUPTED = "interrupted.ckpt"


class SaveOnSignal(Callback):
    """Writes ``<folder of the run>/interrupted.ckpt`` on SIGTERM and on SLURM's signal.

    Args:
        advice: how to go on, as part of the line that is printed.
    """

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        self._asked = self._stopping = False
        self._before: tuple[int, signal.Handlers | None] | None = None
        self._saved_step = -1
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # waits for all ranks
        if stage != TrainerFn.FITTING:
            return

        def stop(signum: int, _: FrameType | None) -> None:
            launcher = trainer.strategy.launcher
            if not self._stopping and launcher is not None:
                launcher.kill(signum)  # processes that this one has started; others get their own
            self._stopping = True

        # Registered by Lightning, after this and before the first step.
        trainer._signal_connector._sigterm_notifier_fn = stop  # type: ignore[method-assign]
        environment = trainer._accelerator_connector.cluster_environment
        if not isinstance(environment, SLURMEnvironment):
            return
        number = environment.requeue_signal
        if environment.auto_requeue and number is not None:
            # Lightning installs its own handler only where there is none.
            self._before = (number, signal.signal(number, self._ask))  # type: ignore[assignment]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.received_sigterm:
            (self._folder / INTERRUPTED).unlink(missing_ok=True)  # the fit has come to its end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._before is not None:
            signal.signal(*self._before)
            self._before = None
        vars(trainer._signal_connector).pop("_sigterm_notifier_fn", None)  # Lightning's own again

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._end_if_due(trainer)
            self._save_if_due(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if trainer.world_size == 1:  # several processes need not have as many batches each
            self._end_if_due(trainer)
        self._save_if_due(trainer)

    def _end_if_due(self, trainer: Trainer) -> None:
        """Let Lightning end the fit after this batch where any process has been told to."""
        stopping = self._stopping  # a signal that comes from here on is for the next step
        if trainer.world_size > 1:
            told = torch.tensor(int(stopping), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            stopping = bool(told)
        if stopping:
            self._stopping = True
            trainer._signal_connector.received_sigterm = True

    def _save_if_due(self, trainer: Trainer) -> None:
        """Save between two steps of the optimizer, once a step, where a signal has come."""
        if not (self._asked or self._stopping):
            return
        if self._saved_step == trainer.global_step and not self._asked:
            return
        requeue, self._asked, self._saved_step = self._asked, False, trainer.global_step
        if not trainer.is_global_zero:
            return
        path = self._folder / INTERRUPTED
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        with atomic_path(path) as temporary:
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, temporary)
        _say(f"signal received: wrote {path} after step {trainer.global_step}{self.advice}")
        if requeue:
            requeue_job()


def requeue_job() -> None:
    """Ask SLURM to run this job again."""
    job = job_id()
    try:
        status = subprocess.run(["scontrol", "requeue", job], check=False).returncode
    except FileNotFoundError:
        status = 127
    result = "is back in the queue" if status == 0 else f"could not be requeued: status {status}"
    _say(f"scontrol requeue {job}: the job {result}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def job_id() -> str:
    """SLURM's number of this job, with that of its place in an array; "" outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID", "")
