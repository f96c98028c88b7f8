"""What validation looks like: layouts and attention of one miniset."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from common.report.figures import log_drawing, log_figure
from spatial_ipa.evaluation.plots.attention import focus_cells, focus_figure, progression_figure
from spatial_ipa.evaluation.plots.layouts import layout_figure
from spatial_ipa.model.targets import Target
from spatial_ipa.model.trace import Trace

_CELLS = 3  # of a focus map: as many as a look at every epoch takes in


def shows_figures(trainer: pl.Trainer) -> bool:
    """Whether figures are logged: with a logger, on rank 0, not in the sanity check."""
    return bool(trainer.loggers) and trainer.is_global_zero and not trainer.sanity_checking


def log_layout(trainer: pl.Trainer, target: Target, x: Tensor) -> None:
    """Log the first graph of a validation batch as ``val/layout``.

    It draws no random numbers and waits for no other rank, as :func:`log_trace`.

    Args:
        trainer: the running trainer, of which :func:`shows_figures` is true.
        target: of the batch.
        x: (N, 2) its layouts.
    """
    first = target.graph == 0
    true, predicted = (value[first].detach().cpu().numpy() for value in (target.xy, x))
    figure = layout_figure("validation", true, {f"epoch {trainer.current_epoch}": predicted})
    log_figure(trainer, "val/layout", figure)


def log_trace(trainer: pl.Trainer, trace: Trace) -> None:
    """Log the layouts of a trace by recycle as ``val/progression``, its attention as ``val/focus``.

    Args:
        trainer: the running trainer, of which :func:`shows_figures` is true.
        trace: of the first graph of a validation batch.
    """
    log_drawing(trainer, "val/progression", progression_figure(trace))
    log_drawing(trainer, "val/focus", focus_figure(trace, focus_cells(trace.xy, _CELLS)))
