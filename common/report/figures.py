"""Figures of a run: made without global plotting state, logged to TensorBoard, kept as PNG.

``matplotlib.figure.Figure`` is used directly, so nothing depends on a display or on pyplot's list
of open figures, and a figure is freed when the last reference to it goes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from common.errors import UserError
from common.files.atomic import atomic_path


def log_figure(trainer: Trainer, name: str, figure: Figure, dpi: int = 150) -> Path | None:
    """Log a figure to every TensorBoard logger and save ``figures/<name>_<epoch>.png``.

    Safe in code that only rank 0 runs: nothing here waits for other ranks.

    Args:
        trainer: the running trainer.
        name: tag, such as ``"val/layout"``; a slash becomes a folder.
        figure: the figure; it stays usable.
        dpi: dots per inch of the PNG.

    Returns:
        The file, or None on ranks other than 0 and during the sanity check.
    """
    if not trainer.is_global_zero or trainer.sanity_checking:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, global_step=trainer.global_step, close=False)
    path = _file_of(trainer, name)
    save_figure(figure, path, dpi)
    return path


def log_drawing(trainer: Trainer, name: str, figure: Figure) -> Path | None:
    """:func:`log_figure` for one that fills its canvas: drawn once, in its own dpi, not trimmed.

    Drawing is most of the time a figure takes, and :func:`log_figure` draws three times: for the
    logger, to see what is to be trimmed, for the file.
    """
    if not trainer.is_global_zero or trainer.sanity_checking:
        return None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            step = trainer.global_step
            logger.experiment.add_image(name, pixels, global_step=step, dataformats="HWC")
    path = _file_of(trainer, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        imsave(partial, pixels, format="png", pil_kwargs={"compress_level": 1})
    return path


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a PNG that is complete or absent, never partial; makes the folder.

    Raises:
        ValueError: if the name does not end in ``.png``.
    """
    if path.suffix != ".png":
        raise UserError(f"path must end in .png, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, bbox_inches="tight")


def _file_of(trainer: Trainer, name: str) -> Path:
    return _log_folder(trainer) / "figures" / f"{name}_{trainer.current_epoch:04d}.png"


def _log_folder(trainer: Trainer) -> Path:
    """Not ``trainer.log_dir``: that is a broadcast and would hang on rank 0 alone."""
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            return Path(logger.log_dir)
        if logger.save_dir is not None:
            return Path(logger.save_dir)
    return Path(trainer.default_root_dir)
