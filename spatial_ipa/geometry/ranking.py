"""How well a score puts the relevant of two kinds first.

Both figures treat equal scores alike, whatever order they come in, and neither depends on the scale
of the scores:

* ``roc_auc``: the share of pairs of one relevant and one other item that are in order, ties
  counting half (Mann and Whitney 1947);
* ``average_precision``: sum over distinct scores s, from the highest, of the precision among items
  of at least s times the recall gained there.  Chance is the share of relevant items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError


def _checked(relevant: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], np.ndarray]:
    """Both (n,), the scores in the type they come in.

    Raises:
        ValueError: if they differ in length, or a score is NaN.
    """
    chosen, values = np.asarray(relevant, dtype=bool), np.asarray(score)
    if chosen.ndim != 1 or chosen.shape != values.shape:
        raise UserError(
            f"relevant and score must be of one length, got {chosen.shape} and {values.shape}"
        )
    if np.isnan(values).any():
        raise UserError(f"score must not hold NaN; {int(np.isnan(values).sum())} values are")
    return chosen, values


def roc_auc(relevant: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve; NaN if all items are of one kind.

    Args:
        relevant: (n,) bool.
        score: (n,) higher for items thought relevant.

    Raises:
        ValueError: for other shapes, or a score that is NaN.
    """
    chosen, values = _checked(relevant, score)
    positives, total = values[chosen], len(values)
    count = len(positives)
    if count in (0, total):
        return float("nan")
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    ranks = float((below + upto + 1).sum(dtype=np.float64)) / 2  # mean ranks, from 1
    return (ranks - count * (count + 1) / 2) / (count * (total - count))


def average_precision(relevant: ArrayLike, score: ArrayLike, other_weight: float = 1.0) -> float:
    """Average precision; NaN if no item is relevant.

    Args:
        relevant: (n,) bool.
        score: (n,) higher for items thought relevant.
        other_weight: how much an item counts that is not relevant; relevant ones count 1.

    Raises:
        ValueError: for other shapes, or a score that is NaN.
    """
    chosen, values = _checked(relevant, score)
    if not chosen.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    hits, ordered = np.cumsum(chosen[order]), values[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of each group of equal scores
    found, seen = hits[last], np.flatnonzero(last) + 1
    precision = found / np.maximum(found + other_weight * (seen - found), 1e-300)
    return float((precision * np.diff(found, prepend=0)).sum() / hits[-1])
