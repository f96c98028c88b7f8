"""Layouts of one slide beside what is easily had without a model: regression and chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.rng import numpy_generator_for
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import reindex
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.baselines.regression import pca_features, predict

TRIVIAL = ("knn", "ridge", "svr", "random")
"""Baselines shown beside a model; further ones are in the tables of ``benchmarks/``."""


def some_rows(n: int, most: int, seed: int) -> np.ndarray:
    """(m,) ascending: all rows, or ``most`` random ones where there are more."""
    return np.sort(numpy_generator_for(seed).choice(n, min(n, most), replace=False))


def trivial_layouts(
    train: Sequence[Slide],
    slide: Slide,
    panel: Sequence[str],
    scored: np.ndarray,
    max_scored: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """(m, 2) layouts of some spots of a slide by the baselines of :data:`TRIVIAL`.

    Args:
        train: slides with coordinates to learn from.
        slide: the slide to lay out; its coordinates are not looked at.
        panel: genes used.
        scored: (m,) rows of ``slide``.
        max_scored: training spots learned from, over all slides: support vector regression grows
            with their square.
        seed: of the samples and methods.
    """
    share = max_scored // len(train)
    learnt = [some_rows(len(s), share, seed) for s in train]
    features = [
        _log_counts(s, rows, panel)
        for s, rows in zip([*train, slide], [*learnt, scored], strict=True)
    ]
    reduced, test_features = pca_features(features[:-1], features[-1], 50, seed)
    train_xy = [
        s.xy[rows].astype(np.float64)
        for s, rows in zip(train, learnt, strict=True)
        if s.xy is not None
    ]
    # Regression of coordinates needs one frame, so training slides are registered first.
    return {
        name: predict(name, reduced, train_xy, test_features, seed, register=True)
        for name in TRIVIAL
    }


def _log_counts(slide: Slide, rows: np.ndarray, panel: Sequence[str]) -> np.ndarray:
    """(m, G) log-normalised, centred expression of some rows on a panel."""
    counts, _ = reindex(slide, panel)
    return normalise(counts[rows], logged=slide.is_logged)
