"""Whether there is an epoch to choose, and what it is chosen by."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from common.errors import UserError
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall

_CANDIDATES = 80  # kNN of H in which a slide's spatial neighbours are looked for


def tissue_recall(h: Tensor, xy: np.ndarray) -> float:
    """Share of the spatial neighbours of a slide, (n, 2), that are among the kNN in H (n, d)."""
    n = len(h)
    return neighbour_recall(h.numpy(), xy, adaptive_k(n), min(_CANDIDATES, n - 1))


def expect_no_training(trainer: pl.Trainer, data: EncoderDataModule) -> None:
    """Let a closed form be written at once, where no adapter is trained in front of it.

    Raises:
        ValueError: if a slide is kept to choose an epoch, or several processes would share nothing.
    """
    if data.selection is not None:
        raise UserError(
            "select_on chooses an epoch, but start.kind=eigenmaps is not trained: its slide would "
            "only be lost to the fit; use null"
        )
    if data.scrna:
        return
    if trainer.world_size > 1:
        raise UserError(
            "start.kind=eigenmaps without scrna trains nothing that processes could share; set "
            "trainer.devices and num_nodes to 1"
        )
    if trainer.max_epochs != 0:
        rank_zero_info("The eigenmaps are a closed form: there is nothing to train.")
        trainer.fit_loop.max_epochs = 0
