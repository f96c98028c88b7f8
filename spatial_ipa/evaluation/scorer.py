"""Score predicted layouts of one slide against its true coordinates, by all metrics."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from common.errors import UserError
from common.rng import generator_for
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.metrics import METRICS, Metric, layout_metrics
from spatial_ipa.model.losses import collapse_diagnostics, geometry_terms
from spatial_ipa.model.minisets import draw_members
from spatial_ipa.model.targets import build_target, union_targets

# Above this many nodes the whole-slide walks are compared on a random sample of rows.
MAX_ROWS = 512


SCORES: dict[str, Metric] = {
    "e_geo": Metric(None, "E_geo", "low"),
    "e_geo_minisets": Metric(None, "minisets", "low"),
    **METRICS,
}
"""Everything a layout is compared by; the first two need the slide's walks."""

COLUMNS: dict[str, str] = {
    name: metric.title for name, metric in SCORES.items() if metric.better is not None
}
"""Title of each column of a table of scores, in order."""


class SlideScorer:
    """Scores any number of layouts of one slide under one definition.

    Targets, minisets, rings and sampled rows are drawn once, from ``seed``, so that methods are
    compared on the same draws.

    Args:
        xy: (n, 2) true coordinates.
        seed: of all random parts.
        num_minisets: minisets drawn from the slide.
        size_min: smallest miniset.
        size_max: largest miniset; the slide's size if that is smaller.
    """

    def __init__(
        self,
        xy: ArrayLike,
        seed: int = 0,
        num_minisets: int = 50,
        size_min: int = 96,
        size_max: int = 384,
    ) -> None:
        self.xy = torch.tensor(np.array(xy), dtype=torch.float32)
        self.seed = seed
        n = self.xy.shape[0]
        self.slide = build_target(self.xy, generator_for(seed, 0), num_rows=MAX_ROWS)
        self.members: list[Tensor] = []
        targets = []
        for draw in range(num_minisets):
            generator = generator_for(seed, 1, draw)
            chosen = draw_members(n, size_min, size_max, generator)
            self.members.append(chosen)
            targets.append(build_target(self.xy[chosen], generator))
        self.minisets = union_targets(targets)

    @torch.no_grad()
    def score(self, layout: ArrayLike) -> dict[str, float]:
        """Metrics of one layout (n, 2) in any pose and scale.

        ``e_geo`` is of the whole slide, ``e_geo_minisets`` the mean over minisets cut out of the
        layout; ``rw`` and ``stress`` are the slide's parts; the rest is documented in
        :func:`spatial_ipa.geometry.metrics.layout_metrics` and
        :func:`spatial_ipa.model.losses.collapse_diagnostics`.

        Raises:
            ValueError: if the layout has another shape than the slide or is not finite.
        """
        x = torch.tensor(np.array(layout), dtype=torch.float32)
        if x.shape != self.xy.shape:
            raise UserError(f"layout must be {tuple(self.xy.shape)}, got {tuple(x.shape)}")
        if not bool(torch.isfinite(x).all()):
            raise UserError("layout holds NaN or infinity")
        whole = geometry_terms(x, self.slide)
        parts = geometry_terms(torch.cat([x[m] for m in self.members]), self.minisets)
        ratio, median = collapse_diagnostics(
            gauge_fix(x), self.slide.graph, 1, self.slide.random_pairs
        )
        return {
            "e_geo": float(whole.e_geo),
            "e_geo_minisets": float(parts.e_geo.mean()),
            "rw": float(whole["rw"]),
            "stress": float(whole["stress"]),
            **layout_metrics(x.numpy(), self.xy.numpy(), seed=self.seed),
            "eigenvalue_ratio": float(ratio),
            "median_distance": float(median),
        }
