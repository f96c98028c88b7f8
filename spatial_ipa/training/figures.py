"""What validation looks like: true and predicted layout of one miniset, side by side."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from common.report.figures import log_figure
from spatial_ipa.evaluation.plots.layouts import layout_figure
from spatial_ipa.model.targets import Target


def log_layout(trainer: pl.Trainer, target: Target, x: Tensor) -> None:
    """Log the first graph of a validation batch as ``val/layout``.

    It draws no random numbers and waits for no other rank.  Nothing is logged without a logger,
    on ranks other than 0, and in the sanity check.

    Args:
        trainer: the running trainer.
        target: of the batch.
        x: (N, 2) its layouts.
    """
    if not trainer.loggers or not trainer.is_global_zero or trainer.sanity_checking:
        return
    first = target.graph == 0
    true, predicted = (value[first].detach().cpu().numpy() for value in (target.xy, x))
    figure = layout_figure("validation", true, {f"epoch {trainer.current_epoch}": predicted})
    log_figure(trainer, "val/layout", figure)
