"""Going on from a checkpoint exactly where it was written, in mid-epoch, too.

Lightning restores weights, optimizer, counters and the state of loaders.  Four things are added:

* A loader that cuts epochs or steps otherwise than the checkpoint's is refused, also where the
  checkpoint stands at an epoch's end and Lightning does not ask the loader.
* A loader that was made before the checkpoint was read, because ``estimated_stepping_batches`` was
  asked for, gets its state, too.
* A checkpoint written after the last step of an epoch and before its validation was complete
  (``ModelCheckpoint(every_n_train_steps=...)``, or a signal) resumes with that validation.
  Lightning would leave it out, and the callbacks that wait for its values would miss an epoch.
* Processes that would go on from different checkpoints are refused: each looks for its own, and
  folders that nodes do not share, or do not see alike yet, show them different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from common.errors import UserError
from common.training.loader import DrawLoader

_STEPS, _VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"


class ExactResume(Callback):
    """Makes a resumed fit continue as the uninterrupted one would have; see the module docstring.

    The ``lightning`` command adds it to every fit, and our modules to every Trainer.
    """

    def __init__(self) -> None:
        self._loaders: list[dict[str, int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING and trainer.world_size > 1:
            found: list[object] = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, trainer.ckpt_path)
            refuse_different(found)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING and "loops" in checkpoint:
            loop = checkpoint["loops"]["fit_loop"]
            self._loaders = loop["state_dict"].get("combined_loader", [])
            validate_after_last_step(loop)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.fit_loop._combined_loader
        ours = [] if loader is None else [x for x in loader.flattened if isinstance(x, DrawLoader)]
        if len(ours) == len(self._loaders):
            for own, state in zip(ours, self._loaders, strict=True):
                own.check(state)
                if trainer.fit_loop.restarting:
                    own.load_state_dict(state)
        self._loaders = []


def refuse_different(found: Sequence[object]) -> None:
    """Refuse processes that go on from different checkpoints.

    Args:
        found: path of each process's checkpoint, by rank; None to start.

    Raises:
        UserError: naming what rank zero and the first other one have found.
    """
    for rank, path in enumerate(found):
        if path != found[0]:
            first, other = (of or "no checkpoint" for of in (found[0], path))
            raise UserError(
                f"process 0 goes on from {first}, process {rank} from {other}: put the log folder "
                "(trainer.logger.init_args.save_dir, trainer.default_root_dir) where all nodes "
                "see the same files, and give the command again"
            )


def exact_resume(trainer: Trainer) -> list[Callback]:
    """The callback, for ``configure_callbacks`` of a module; empty where the trainer has it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [] if any(isinstance(given, ExactResume) for given in callbacks) else [ExactResume()]


def validate_after_last_step(loop: dict[str, Any]) -> None:
    """Let a fit resume with the validation that the checkpoint was written before the end of.

    Args:
        loop: progress of the fit loop as a checkpoint holds it; changed in place.
    """
    steps, validation, epochs = loop[_STEPS], loop[_VALIDATION], loop["epoch_progress"]["total"]
    count = validation["total"]  # of this epoch
    complete = 0 < count["ready"] == count["completed"] and validation["is_last_batch"]
    if not steps["is_last_batch"] or epochs["processed"] == epochs["started"] or complete:
        return
    for name in ("total", "current"):
        steps[name]["completed"] = steps[name]["processed"]
        # As if the first batch of the validation were under way: it is begun anew.
        validation[name] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation["is_last_batch"] = False
