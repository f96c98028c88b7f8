"""Whether a matrix holds counts or log-normalised values.

Whole numbers are counts.  Of decimals, which depth normalisation, the removal of ambient RNA and
models of segmentation leave, too, two things are asked, both of the bulk of the values, so that no
single one turns the answer:

1. The logarithm of counts, undone, gives whole multiples: with u = b^x - 1, b one of e, 2 and 10,
   and u_min the smallest of a cell, most u / u_min between 1.5 and 20 are within 0.02 of a whole
   number.  If the values themselves are such multiples they are counts at some scale.
2. The logarithm of values of equal depth, undone, gives cells of equal depth: the interquartile
   range of log sum_g u is well below that of log sum_g x.  Counts that are exponentiated go apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from common.errors import UserError

_BASES = {"natural": np.e, "base 2": 2.0, "base 10": 10.0}
_CELLS = 500  # looked at, evenly spread over the matrix
_WHOLE = 0.9  # of the multiples of most cells
_LARGEST = 300.0  # exponents beyond, which no logarithm has, would overflow


class Judgement(NamedTuple):
    """What the values of a matrix are, what says so, and whether it is beyond doubt."""

    logged: bool
    reason: str
    certain: bool = False


class Judged(Protocol):
    """What is needed of a slide to compare its values with those of others."""

    @property
    def name(self) -> str: ...

    @property
    def is_logged(self) -> bool: ...

    @property
    def values_stated(self) -> bool: ...


def judge_values(counts: sp.csr_matrix) -> Judgement:
    """What (n, G) non-negative values are; see the module."""
    values = counts.data
    if (values == np.floor(values)).all():
        return Judgement(False, "whole numbers", certain=True)
    some = counts
    if counts.shape[0] > _CELLS:
        some = counts[np.linspace(0, counts.shape[0] - 1, _CELLS).astype(int)]
    if _whole_multiples(some, None) >= _WHOLE:
        return Judgement(False, "in each cell whole multiples of one value", certain=True)
    for name, base in _BASES.items():
        if _whole_multiples(some, base) >= _WHOLE:
            return Judgement(True, f"{name} logarithms of whole multiples of one value")
    spread = _depth_spread(some, None)
    name, undone = min(
        ((name, _depth_spread(some, base)) for name, base in _BASES.items()),
        key=lambda item: item[1],
    )
    if undone < 0.9 * spread:
        return Judgement(True, f"{name} logarithms, undone, make cells of equal depth")
    return Judgement(False, "decimals that are no logarithms of cells of equal depth")


def refuse_mixed_values(slides: Iterable[Judged]) -> None:
    """Refuse a run whose slides and samples hold counts in part and logarithms in part.

    Slides for which it was stated (``values``) are taken at their word.

    Raises:
        ValueError: if so, naming both.
    """
    found: dict[bool, list[str]] = {False: [], True: []}
    for slide in slides:
        if not slide.values_stated:
            found[slide.is_logged].append(slide.name)
    if found[False] and found[True]:
        raise UserError(
            f"one run mixes counts ({_named(found[False])}) and log-normalised values "
            f"({_named(found[True])}); name the layer with counts (layer), or state what they are: "
            "keys.values=counts or logged (scrna_keys.values for dissociated samples)"
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _undone(values: np.ndarray, base: float | None) -> np.ndarray:
    """b^x - 1, or x itself."""
    exact = values.astype(np.float64)
    return exact if base is None else np.expm1(np.minimum(exact * np.log(base), _LARGEST))


def _whole_multiples(counts: sp.csr_matrix, base: float | None) -> float:
    """The median over cells of the share of their values that are whole multiples; 0 if unknown."""
    shares = []
    for first, last in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        if last - first < 3:
            continue
        multiple = _undone(counts.data[first:last], base)
        multiple = multiple / multiple.min()
        multiple = multiple[(multiple > 1.5) & (multiple < 20)]
        if len(multiple) > 1:
            shares.append(float((np.abs(multiple - np.rint(multiple)) < 0.02).mean()))
    return float(np.median(shares)) if len(shares) >= 10 else 0.0


def _depth_spread(counts: sp.csr_matrix, base: float | None) -> float:
    """Interquartile range over cells of the log of the sum of their values."""
    undone = sp.csr_matrix((_undone(counts.data, base), counts.indices, counts.indptr))
    depth = np.asarray(undone.sum(axis=1)).ravel()
    depth = depth[depth > 0]
    if not depth.size:
        return 0.0
    low, high = np.percentile(np.log(depth), [25, 75])
    return float(high - low)
