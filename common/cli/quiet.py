"""What Lightning says on every run and nobody can act on is left out."""

from __future__ import annotations

import logging
import warnings

_WARNINGS = (
    r".*LeafSpec.*",  # of Lightning's own code, to its authors
    r".*does not have many workers.*",  # draws are cheap; num_workers is in every configuration
    r"Checkpoint directory .* exists and is not empty.*",  # true of every resumed run
    r".*is smaller than the logging interval.*",  # of tiny runs
    r"Be aware that when using `ckpt_path`, callbacks used to create.*",  # by their state
    r"The dirpath has changed from.*",
    r"You have overridden `transfer_batch_to_device`.*",
)
_LINES = ("litlogger", "litmodels", "`weights_only` was not set")
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


def leave_out_noise() -> None:
    """Filter what names nothing one can do; the other warnings take one line, without source."""
    warnings.formatwarning = _one_line
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return f"warning: {message}\n"


def _is_news(record: logging.LogRecord) -> bool:
    return not any(line in record.getMessage() for line in _LINES)
