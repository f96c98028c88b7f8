"""Proportions of a layout.

Where expression says less about one direction than about another, layouts come out too narrow
across the uncertain one.  Sections of a tissue have similar proportions, so the layout is stretched
along its principal axes half-way, in the logarithm, from its own aspect ratio to that of the
training slides.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from spatial_ipa.layout.placement import Placement

# Share of the way to the training slides' aspect ratio.  Chosen on her2st patient A
# (benchmarks/reports/spatial_table_2core_202611.md).
_OUTLINE_SHARE = 0.5
# A layout more line-like than this has no second axis to stretch.
_MIN_ASPECT = 0.02


def aspect_ratio(xy: Tensor) -> float:
    """RMS width of points (n, 2) across their long principal axis over that along it, in [0, 1]."""
    centred = (xy - xy.mean(0)).double()
    low, high = torch.linalg.eigvalsh(centred.mT @ centred).clamp_min(0).tolist()
    return (low / high) ** 0.5 if high > 0 else 1.0


def typical_aspect(coordinates: Iterable[np.ndarray]) -> float:
    """Geometric mean of the aspect ratios of slides, each (n, 2) in a unit of its own."""
    ratios = [aspect_ratio(torch.from_numpy(np.array(xy))) for xy in coordinates]
    return float(np.exp(np.log(ratios).mean()))


def towards_outline(
    placement: Placement, aspect: float, share: float = _OUTLINE_SHARE
) -> Placement:
    """Stretch a layout along its principal axes towards an aspect ratio.

    Its own ratio r becomes r^(1 - share) aspect^share; the draws undergo the same linear map.

    Args:
        placement: at least two cells.
        aspect: that of the training slides, in (0, 1]; see :func:`aspect_ratio`.
        share: 0 leaves the layout alone, 1 gives it ``aspect``.

    Raises:
        ValueError: if ``aspect`` is not in (0, 1].
    """
    if not 0.0 < aspect <= 1.0:
        raise UserError(f"aspect must lie in (0, 1], got {aspect}")
    own = aspect_ratio(placement.xy)
    if own < _MIN_ASPECT:
        return placement
    xy = placement.xy.double()
    axes = torch.linalg.eigh((xy - xy.mean(0)).mT @ (xy - xy.mean(0))).eigenvectors  # narrow first
    stretch = torch.tensor([(aspect / own) ** share, 1.0], dtype=torch.float64, device=xy.device)
    change = (axes * stretch) @ axes.mT
    moved = (xy - xy.mean(0)) @ change
    scale = moved.square().sum(1).mean().sqrt()
    draws = (placement.draws.double() @ change) / scale
    return Placement((moved / scale).to(placement.xy), draws.to(placement.draws))
