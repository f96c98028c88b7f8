"""A trained model from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from common.errors import UserError
from common.files.checkpoint import read_checkpoint
from spatial_ipa.model.pair import build_pair, settings_of
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.placer import Placer


def load(path: str | Path, device: str | torch.device = "cpu") -> Placer:
    """Load what a fit exported, encoder and gene panel inside; nothing is run that it may hold.

    Args:
        path: a checkpoint of ``spatial_ipa.fit`` or ``lightning fit``; exported ones also give
            error radii.
        device: where cells are to be placed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a checkpoint, places no cells, or a part of it was made by
            another version; the message says what to do.

    Example:
        >>> import spatial_ipa
        >>> model = spatial_ipa.load(example_checkpoint)
        >>> len(model.encoder.panel)
        120
    """
    path = Path(path)
    content = read_checkpoint(path)
    parts = ("state_dict", "hyper_parameters", "placement_context")
    if not isinstance(content, dict) or any(part not in content for part in parts):
        raise UserError(
            f"{path} is not a checkpoint of spatial_ipa with what placing needs; load one that "
            "`edgewise fit spatial` or `lightning fit --config configs/spatial_ipa/fit.yaml` wrote"
        )
    try:
        network, graph = settings_of(content["hyper_parameters"])
        if graph == "true":
            raise UserError(
                "it was trained with graph=true, needs coordinates, and places no cells"
            )
        with torch.random.fork_rng(devices=[]):
            placer = Placer(
                *build_pair(network, graph),
                PlacementContext.from_state(content["placement_context"]),
            )
        placer.load_weights(content["state_dict"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is damaged, or of another version: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    placer.network.to(device)
    if placer.gate is not None:
        placer.gate.to(device)
    return placer
