"""A fit on the CPU keeps the memory of a step, not of all steps.

Where batches differ in shape, two things make a process grow far beyond what a step needs:

* oneDNN, to which PyTorch gives GELU and a few more operations, compiles code for every shape and
  keeps that of the last 1,024 (its primitive cache).  The pieces lie among the tensors and are
  rarely freed, so what is free between them can be used for smaller tensors only.
* glibc raises its threshold for blocks of their own up to 32 MiB as such blocks are freed; from
  then on tensors come from its heap, which shrinks at its end alone.

``benchmarks/memory.py`` measures both.
"""

from __future__ import annotations

import ctypes
import sys

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

EVERY = 50  # steps; a call takes milliseconds


class SteadyMemory(Callback):
    """Fits without oneDNN, and gives memory that was freed back to the system.

    Our modules add it to every Trainer that has none.  Results differ by rounding from those with
    oneDNN; operations on a GPU are not concerned.  oneDNN is as it was when the fit has ended.

    Args:
        every_n_steps: give memory back after so many batches, and after every validation; 0 for
            never.
        onednn: leave oneDNN on.

    Raises:
        ValueError: on a negative number of steps.
    """

    def __init__(self, every_n_steps: int = EVERY, onednn: bool = False) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must not be negative, got {every_n_steps}")
        self.every_n_steps, self.onednn = every_n_steps, onednn
        self._before: bool | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not self.onednn and self._before is None:
            # A property of the module, which type checkers take for its descriptor.
            self._before = bool(torch.backends.mkldnn.enabled)
            torch.backends.mkldnn.enabled = False  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()  # no teardown then

    def _restore(self) -> None:
        if self._before is not None:
            torch.backends.mkldnn.enabled = self._before  # type: ignore[assignment]
            self._before = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if self.every_n_steps and (batch_idx + 1) % self.every_n_steps == 0:
            trim_heap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps:
            trim_heap()


def steady_memory(trainer: Trainer) -> list[Callback]:
    """The callback, for ``configure_callbacks`` of a module; empty where the trainer has it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [] if any(isinstance(given, SteadyMemory) for given in callbacks) else [SteadyMemory()]


def trim_heap() -> bool:
    """Give free pages of the heap, also between blocks in use, back to the system (glibc).

    Returns:
        Whether the C library can; musl and those of macOS and Windows cannot.
    """
    if sys.platform != "linux":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True
