"""Ranking figures against scikit-learn, with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from spatial_ipa.geometry.ranking import average_precision, roc_auc


@pytest.mark.parametrize("digits", [12, 1, 0])  # none, many, and hardly anything but ties
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_equal_those_of_scikit_learn(digits: int, share: float) -> None:
    rng = np.random.default_rng(3)
    relevant = rng.random(900) < share
    score = np.round(rng.normal(size=900) + relevant, digits)
    assert roc_auc(relevant, score) == pytest.approx(roc_auc_score(relevant, score), abs=1e-12)
    expected = average_precision_score(relevant, score)
    assert average_precision(relevant, score) == pytest.approx(expected, abs=1e-12)


def test_order_of_the_items_and_scale_of_the_scores_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    relevant, score = rng.random(200) < 0.3, np.round(rng.normal(size=200), 1)
    order = rng.permutation(200)
    for figure in (roc_auc, average_precision):
        expected = figure(relevant, score)
        assert figure(relevant[order], 7 * score[order] - 3) == pytest.approx(expected, abs=1e-12)


def test_scores_that_say_nothing_give_chance() -> None:
    relevant = np.arange(50) % 5 == 0
    assert roc_auc(relevant, np.zeros(50)) == 0.5
    assert average_precision(relevant, np.zeros(50)) == pytest.approx(0.2)


def test_one_kind_only() -> None:
    score = np.arange(4.0)
    assert math.isnan(roc_auc(np.ones(4), score))
    assert math.isnan(roc_auc(np.zeros(4), score))
    assert math.isnan(average_precision(np.zeros(4), score))
    assert average_precision(np.ones(4), score) == 1.0


@pytest.mark.parametrize("figure", [roc_auc, average_precision])
def test_refusals(figure: object) -> None:
    assert callable(figure)
    with pytest.raises(ValueError, match=r"one length, got \(3,\) and \(2,\)"):
        figure([True, False, True], [1.0, 2.0])
    with pytest.raises(ValueError, match="NaN; 1 values"):
        figure([True, False], [1.0, math.nan])
