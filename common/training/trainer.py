"""A Lightning trainer for benchmarks and tests."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(max_epochs: int, **options: Any) -> Trainer:
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
    return Trainer(max_epochs=max_epochs, **(quiet | options))
