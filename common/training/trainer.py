"""The Trainer of the command line.

A new subcommand of ``lightning`` is a typed, documented public method of this class plus its name
in ``SUBCOMMANDS``: its parameters become options, except those listed to be skipped, and its
first docstring line becomes the help text.  ``model`` and ``datamodule`` are always passed.  A
method that needs a checkpoint receives ``ckpt_path`` as text and has to load it itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import Trainer as LightningTrainer


class Trainer(LightningTrainer):
    """``lightning.pytorch.Trainer`` with room for further subcommands."""

    # Method name -> parameters that are not options.  `model` and `datamodule` belong in each set.
    SUBCOMMANDS: ClassVar[dict[str, set[str]]] = {}


def quiet_trainer(max_epochs: int, **options: Any) -> LightningTrainer:
    """A trainer on one CPU process that prints nothing and leaves nothing on disk, for benchmarks.

    Args:
        max_epochs: length of the fit.
        options: of Lightning's Trainer; they win over the ones set here.
    """
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return LightningTrainer(max_epochs=max_epochs, **(quiet | options))
