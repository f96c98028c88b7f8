"""What a checkpoint of a training holds for placing new cells, beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from common.errors import UserError
from spatial_ipa.confidence.calibration import check_slides
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.gate import EdgeGate
from spatial_ipa.model.pair import Network
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.embedded import EmbeddedPlacer

KEY = "placement_context"


def check_completable(
    train: Sequence[EmbeddedSlide], val: Sequence[EmbeddedSlide], num_draws: int
) -> None:
    """Refuse before training what :func:`complete_checkpoint` would refuse after it.

    Raises:
        ValueError: on slides with too few cells, or a slide in both lists.
    """
    ReferenceCells.sample(train)
    if num_draws:
        check_slides(train, val)


def complete_checkpoint(
    checkpoint: dict[str, Any],
    network: Network,
    gate: EdgeGate | None,
    train: Sequence[EmbeddedSlide],
    val: Sequence[EmbeddedSlide],
    num_draws: int,
) -> None:
    """Put training cells and, with draws, error radii into a checkpoint.

    They are those of the checkpoint's weights, which need not be the last ones.

    Args:
        checkpoint: of the training; completed in place.
        network, gate: of its form and on the device to compute on; they are left as they are.
        train: slides of the training.
        val: slides to calibrate on.
        num_draws: layouts of each; 0 for no radii.
    """
    context = PlacementContext.from_state(checkpoint[KEY])
    placer = EmbeddedPlacer(*deepcopy((network, gate)), context)
    placer.load_weights(checkpoint["state_dict"])
    judged = placer.calibrated(train, val, num_draws) if num_draws else placer.with_reference(train)
    checkpoint[KEY] = judged.context.state()


def context_of(
    checkpoint: Mapping[str, Any], own: PlacementContext | None, resumed_for: int | None
) -> PlacementContext | None:
    """The context that a module has after loading a checkpoint.

    Args:
        checkpoint: of a training.
        own: that of the data module; None without one.
        resumed_for: ``max_epochs`` of a fit that goes on from the checkpoint; None of any other
            command.

    Raises:
        ValueError: if the checkpoint was trained on other embeddings or minisets, or a fit is
            resumed with other epochs: beyond its end the cosine decay rises again.
    """
    if KEY not in checkpoint:
        return own
    saved = PlacementContext.from_state(checkpoint[KEY])
    differences = [] if own is None else saved.differences(own)
    if differences:
        raise UserError(
            "this checkpoint was trained on embeddings of another encoder, or on minisets "
            f"drawn otherwise, than the data module's: {'; '.join(differences)}. Give "
            "data.init_args.encoder and data.init_args.minisets of that training, or train "
            "anew without --ckpt_path"
        )
    if own is None or resumed_for is None:
        return saved
    for schedule in checkpoint.get("lr_schedulers", ()):
        if schedule["T_max"] != resumed_for:
            raise UserError(
                f"the learning rate of this checkpoint decays over {schedule['T_max']} epochs, "
                f"and trainer.max_epochs is {resumed_for}; resume it with "
                f"{schedule['T_max']}, or train anew without --ckpt_path"
            )
    # The frame follows from the training slides and `common_frame`, resumed or not; training cells
    # and radii are those of other weights.
    return replace(saved, frame=own.frame, reference=None, calibration=None)
