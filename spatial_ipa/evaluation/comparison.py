"""Layouts of one slide beside what is easily had without a model: regression and chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import reindex
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.baselines.regression import pca_features, predict
from spatial_ipa.evaluation.scorer import SlideScorer

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


def score_slides(
    layout_of: Callable[[Slide], np.ndarray],
    panel: Sequence[str],
    slides: Sequence[Slide],
    train: Sequence[Slide],
    max_scored: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Scores of a model on slides with coordinates, and of baselines where it has training slides.

    Args:
        layout_of: the model: (n, 2) of a slide.
        panel: its genes.
        slides: to score on.
        train: to learn the baselines from; none without any.
        max_scored: larger slides are scored on so many random spots.
        seed: of the samples and baselines.

    Raises:
        ValueError: if a slide has no coordinates.
    """
    rows = []
    for slide in slides:
        if slide.xy is None:
            raise UserError(f"{slide.name} has no coordinates to score against")
        scored = some_rows(len(slide), max_scored, seed)
        layouts = {"spatial_ipa": layout_of(slide)[scored]}
        if train:
            layouts |= trivial_layouts(train, slide, panel, scored, max_scored, seed)
        scorer = SlideScorer(slide.xy[scored], seed=seed)
        rows += [
            {"slide": slide.name, "method": name, **scorer.score(layout)}
            for name, layout in layouts.items()
        ]
    return rows
