"""Which confidences a placement may be given: error radius, abstention, ambiguity.

The quantities are those of :mod:`spatial_ipa.confidence.calibration` and
:mod:`spatial_ipa.confidence.reference_cells`.  Radii hold only for placements like those they were
calibrated on; where they do not, the reason is given in their place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatial_ipa.confidence.calibration import MIN_CELLS, cell_features
from spatial_ipa.confidence.conformal import conformal_quantile
from spatial_ipa.layout.placement import Placement
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.options import PlacementOptions


def judge_cells(
    context: PlacementContext,
    h: np.ndarray,
    placement: Placement,
    options: PlacementOptions,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns for ``obs`` and what is to be known about them.

    Args:
        context: of the model that placed the cells.
        h: (n, d) embeddings.
        placement: of the n cells.
        options: how they were placed.

    Returns:
        ``ambiguity`` and ``multimodal`` if the checkpoint holds training cells; ``radius`` and
        ``abstain`` if it is calibrated for this placement.  Then a dictionary for ``uns``, whose
        ``missing`` says why there is no radius.

        Errors are measured on the layout shrunk by ``scale``, where it fits the tissue best; radii
        are given for the layout as it is written, of RMS radius 1, so they are divided by it.

    Raises:
        ValueError: if ``options.coverage`` is too high for the number of calibration cells.
    """
    if context.reference is None:
        return {}, {"missing": "the checkpoint holds no training cells: it is not an export"}
    evidence = context.reference.judge(h)
    columns = {"ambiguity": evidence.ambiguity, "multimodal": evidence.multimodal}
    missing = _why_not(context, h, options)
    calibration = context.calibration
    if calibration is None or missing:
        return columns, {"missing": missing}
    features = cell_features(placement, evidence.novelty, evidence.ambiguity)
    radius = calibration.radius(features, options.coverage) / calibration.scale
    threshold = options.abstain_above
    if threshold is None:
        threshold = calibration.median_pair / calibration.scale
    abstain = radius > threshold
    about = {
        "coverage": options.coverage,
        "abstain_above": threshold,
        "abstained": float(abstain.mean()),
        "cells": len(calibration.scores),
        "scale": calibration.scale,
        "slides": list(calibration.slides),
        "content_hashes": list(calibration.content_hashes),
        "identifiability": list(calibration.identifiability),
    }
    if calibration.between_slides:
        about["between_slides"] = np.array(calibration.between_slides)
    return {**columns, "radius": radius, "abstain": abstain}, about


def check_options(context: PlacementContext, h: np.ndarray, options: PlacementOptions) -> None:
    """Refuse before the cells are placed what would be refused after it.

    Raises:
        ValueError: as :func:`judge_cells`, and on hypotheses the model cannot give.
    """
    if options.num_hypotheses > 1:
        context.charts_for(options.num_hypotheses)
    calibration = context.calibration
    if calibration is not None and not _why_not(context, h, options):
        conformal_quantile(calibration.scores, options.coverage)


def _why_not(context: PlacementContext, h: np.ndarray, options: PlacementOptions) -> str:
    """Why error radii are not given; empty if they are."""
    if context.calibration is None:
        return (
            "the model was fitted without validation slides (data.val_slides) or with "
            "model.calibration_draws=0"
        )
    needed = context.calibration.num_draws
    if options.num_draws < needed:
        return f"calibrated with num_draws={needed}, placed with {options.num_draws}; use as many"
    n = len(h)
    if n < MIN_CELLS:
        return (
            f"{n} cells; the cells of a file are laid out as if they spanned the tissue, which "
            f"fewer than {MIN_CELLS} cannot be taken to do"
        )
    if not np.ptp(h, axis=0).any():
        return "all cells have the same embedding"
    auto = context.mode_for(n)
    if options.inference not in ("auto", auto):
        return f"calibrated with inference=auto, which is {auto} here; got {options.inference}"
    return ""
