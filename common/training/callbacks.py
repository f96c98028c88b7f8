"""Callbacks: stop and checkpoint only on a metric that has been logged; time and memory per epoch.

A loss weight that ramps makes early validation values incomparable with later ones.  A module
therefore logs the monitored key only once the ramp is complete (``schedules.ramp_reached``); the
two callbacks here wait for it, and say so at the end if it never came.
"""

from __future__ import annotations

import difflib
import time
import warnings
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from common.report.resources import peak_memory_bytes


def best_checkpoint(trainer: Trainer, monitor: str) -> str:
    """Path of the best checkpoint by ``monitor``; "" where none was kept."""
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "monitor", None) == monitor:
            return str(getattr(callback, "best_model_path", ""))
    return ""


class RampedEarlyStopping(EarlyStopping):
    """Early stopping that counts patience only from the first logged value of ``monitor``.

    Args:
        monitor: key that the module logs from the end of its ramp on.
        patience: validations without improvement before stopping.
        min_delta: smallest change that counts as an improvement.
        mode: "min" or "max".
        check_finite: stop when the value is NaN or infinite.
        verbose: report improvements.
    """

    def __init__(
        self,
        monitor: str,
        patience: int = 4,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] = "min",
        check_finite: bool = True,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            monitor=monitor,
            patience=patience,
            min_delta=min_delta,
            mode=mode,
            check_finite=check_finite,
            verbose=verbose,
            strict=False,
        )


class RampedModelCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoints by ``monitor`` among the epochs in which it has been logged.

    Before the first value nothing is written, so add a plain ``ModelCheckpoint`` (no monitor) to
    be able to resume from inside the ramp.  At the end of a fit in which the key never appeared
    a warning lists the keys that did.

    A resumed fit goes on from the best scores so far, also in a new folder.  Checkpoints of the
    earlier run are never deleted; those that have been deleted since no longer count.

    Args:
        monitor: key that the module logs from the end of its ramp on.
        mode: "min" or "max".
        save_top_k: number of best checkpoints kept; -1 keeps all.
        dirpath: folder; default ``<log dir>/checkpoints``.
        filename: pattern such as ``"best-{epoch:03d}"``.
        every_n_epochs: consider every n-th epoch only.
        train_time_interval: consider at this interval instead.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        dirpath: Path | None = None,
        filename: str | None = "best-{epoch:03d}",
        every_n_epochs: int | None = None,
        train_time_interval: timedelta | None = None,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            dirpath=dirpath,
            filename=filename,
            every_n_epochs=every_n_epochs,
            train_time_interval=train_time_interval,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning's own forgets the scores when the folder changes, and every logger makes a new
        # one: the next checkpoint, however bad, would count as the best.
        known: dict[str, torch.Tensor] = state_dict["best_k_models"]
        models = {path: score for path, score in known.items() if Path(path).is_file()}
        lost = sorted(set(known) - set(models))
        if lost:
            warnings.warn(
                f"checkpoints that were the best by {self.monitor!r} are gone and no longer count: "
                + ", ".join(lost),
                stacklevel=2,
            )
        ranked = sorted(models, key=lambda path: float(models[path]), reverse=self.mode == "max")
        self.best_k_models = models
        self.best_model_path = ranked[0] if ranked else ""
        self.best_model_score = models[ranked[0]] if ranked else None
        # Lightning reads these two only when as many checkpoints are kept as wanted.
        self.kth_best_model_path = ranked[-1] if ranked else ""
        if ranked:
            self.kth_value = models[ranked[-1]]
        self.current_score = state_dict["current_score"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        missed = self.monitor not in trainer.callback_metrics and not self.best_model_path
        if missed and trainer.is_global_zero:
            similar = _similar(str(self.monitor), trainer.callback_metrics)
            warnings.warn(
                f"no checkpoint was kept by {self.monitor!r}: the key was never logged in "
                f"{trainer.current_epoch} epochs (most like it: {similar}). Train longer than "
                "the ramp of the loss weights, after which it comes, or correct the monitor.",
                stacklevel=2,
            )


def _similar(key: str, logged: Iterable[str]) -> str:
    """The few logged keys that are most like one that was not logged."""
    names = sorted(logged)
    found = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    return ", ".join(found or names[:3]) or "nothing was logged"


class EpochResources(Callback):
    """Logs wall seconds per epoch and peak memory: the maximum over ranks.

    Keys: ``time/train_s`` (epoch without its validation), ``time/val_s``,
    ``memory/peak_rss_mib`` (of the process since its start, not of the epoch) and, on CUDA,
    ``memory/peak_cuda_mib`` (allocated by tensors in the epoch).
    """

    def __init__(self) -> None:
        self._epoch_start = 0.0
        self._validation_start = 0.0
        self._validation_seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()  # a fit resumed in mid-epoch begins no epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._validation_seconds = 0.0
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_seconds += time.perf_counter() - self._validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.perf_counter() - self._epoch_start
        values = {
            "time/train_s": seconds - self._validation_seconds,
            "time/val_s": self._validation_seconds,
            "memory/peak_rss_mib": peak_memory_bytes() / 2**20,
        }
        if pl_module.device.type == "cuda":
            values["memory/peak_cuda_mib"] = (
                torch.cuda.max_memory_allocated(pl_module.device) / 2**20
            )
        for key, value in values.items():
            pl_module.log(key, value, batch_size=1, reduce_fx="max", sync_dist=True)
