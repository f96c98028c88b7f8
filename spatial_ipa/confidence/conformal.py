"""Error radii of placed cells, calibrated on held-out slides by split conformal prediction.

The error of a cell is the distance between its predicted and its true position after the best
similarity (reflection allowed) of the whole layout onto the true one, which has RMS radius 1.
Errors of validation slides, placed as `predict` places cells, are explained by features that need
no coordinates:

    log sigma = b + sum_f w_f log(0.01 + f),  w_f >= 0,   f = spread over draws, novelty, ambiguity

(:mod:`spatial_ipa.confidence.reference_cells`), fitted to log(0.01 + error) by non-negative least
squares on a random half of the cells, so a larger feature never shrinks a radius.  On the other
half, of m cells, the scores are error / sigma, and

    radius_i = q sigma_i,   q = the ceil((m + 1) coverage)-th smallest score.

This covers a new error with at least the wanted probability if it is exchangeable with those m
(Vovk, Gammerman and Shafer 2005, ch. 2; Lei et al., J. Am. Stat. Assoc. 113:1094, 2018; the scores
are the normalised ones discussed by Romano, Patterson and Candès, NeurIPS 2019).  Cells of one
slide share its fate, so what is promised holds on average over cells of slides like the validation
slides, not on every slide: with two or more of them the coverage of each by the others is kept as
``between_slides``.  Nothing is promised for dissociated cells.

A cell is abstained from if its radius exceeds the median distance between two random cells of the
validation slides (about 1.2): then it could lie nearly anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from common.errors import UserError
from common.files.identity import check_version
from spatial_ipa.geometry.gauge import gauge_fix_array, procrustes_rotation

CALIBRATION_VERSION = 1
COVERAGE = 0.9

_FLOOR = 0.01


@dataclass(frozen=True)
class ErrorModel:
    """sigma of the module: intercept b and weights w."""

    intercept: float
    weights: tuple[float, ...]

    @staticmethod
    def fit(features: np.ndarray, error: np.ndarray) -> ErrorModel:
        """Fit to features (n, 3), not negative, and errors (n,)."""
        z, y = np.log(_FLOOR + features), np.log(_FLOOR + error)
        weights, _ = nnls(z - z.mean(axis=0), y - y.mean())
        intercept = y.mean() - z.mean(axis=0) @ weights
        return ErrorModel(float(intercept), tuple(float(w) for w in weights))

    def sigma(self, features: np.ndarray) -> np.ndarray:
        """(n,) from features (n, 3)."""
        sigma: np.ndarray = np.exp(
            self.intercept + np.log(_FLOOR + features) @ np.array(self.weights)
        )
        return sigma


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns features of new cells into error radii.

    Radii, ``median_pair`` and scores are in RMS radii of the tissue, as the module defines errors;
    :mod:`spatial_ipa.placing.judge` brings them to the unit of the layout.

    Attributes:
        model: of sigma.
        scores: (m,) ascending error / sigma of the cells that ``model`` was not fitted to.
        num_draws: draws per placement when it was calibrated; predictions need at least as many.
        median_pair: default threshold of abstention, in RMS radii; the mean over slides.
        scale: mean of the factors by which layouts were shrunk onto the truth.
        slides: names of the validation slides.
        content_hashes: of the same.
        between_slides: coverage of each slide at 0.9 by radii calibrated on the others; empty with
            one slide.
        identifiability: verdict on each slide, see :mod:`spatial_ipa.confidence.identifiability`.
    """

    model: ErrorModel
    scores: np.ndarray
    num_draws: int
    median_pair: float
    scale: float
    slides: tuple[str, ...]
    content_hashes: tuple[str, ...]
    between_slides: tuple[float, ...]
    identifiability: tuple[str, ...]

    def radius(self, features: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
        """(n,) radii that hold a share ``coverage`` of the errors, from features (n, 3).

        Raises:
            ValueError: if ``coverage`` is not in (0, 1) or too high for the number of cells.
        """
        return conformal_quantile(self.scores, coverage) * self.model.sigma(features)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "version": CALIBRATION_VERSION,
            "intercept": self.model.intercept,
            "weights": list(self.model.weights),
            "scores": torch.from_numpy(self.scores),
            "num_draws": self.num_draws,
            "median_pair": self.median_pair,
            "scale": self.scale,
            "slides": list(self.slides),
            "content_hashes": list(self.content_hashes),
            "between_slides": list(self.between_slides),
            "identifiability": list(self.identifiability),
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Calibration:
        """Rebuild what :meth:`state` gave.

        Raises:
            ValueError: if the state is of another version.
        """
        check_version(state, "calibration", CALIBRATION_VERSION)
        return Calibration(
            ErrorModel(float(state["intercept"]), tuple(state["weights"])),
            state["scores"].cpu().numpy(),
            int(state["num_draws"]),
            float(state["median_pair"]),
            float(state["scale"]),
            tuple(state["slides"]),
            tuple(state["content_hashes"]),
            tuple(state["between_slides"]),
            tuple(state["identifiability"]),
        )


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((m + 1) coverage)-th smallest of m ascending scores.

    Raises:
        ValueError: if ``coverage`` is not in (0, 1), or so high that no score is large enough.
    """
    if not 0 < coverage < 1:
        raise UserError(f"coverage must lie in (0, 1), got {coverage}")
    m = len(scores)
    # Rounded first: 0.9 times 10 must not become 10 because 0.9 has no finite binary form.
    rank = int(np.ceil(round((m + 1) * coverage, 9)))
    if rank > m:
        raise UserError(
            f"coverage={coverage} needs more than the {m} calibration cells there are; the highest "
            f"possible is {m / (m + 1):.4f}"
        )
    return float(scores[rank - 1])


def placement_errors(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, float]:
    """Errors (n,) of a layout (n, 2) in RMS radii of the true one, and the scale it was given."""
    rotation, scale = procrustes_rotation(pred, true)
    off = scale * gauge_fix_array(pred) @ rotation - gauge_fix_array(true)
    return np.linalg.norm(off, axis=1), scale


def radius_check(
    radius: np.ndarray, abstain: np.ndarray, pred: np.ndarray, true: np.ndarray
) -> dict[str, float]:
    """How radii hold where the truth is known.

    Args:
        radius: (n,) in RMS radii of the true layout; cells where it is NaN are left out.
        abstain: (n,) bool.
        pred: (n, 2) layout.
        true: (n, 2) true coordinates.

    Returns:
        ``coverage``: share of cells whose error is within the radius; ``median_radius``;
        ``abstained``: share; ``median_error_kept`` and ``median_error_abstained``, NaN for none.
    """
    error, _ = placement_errors(pred, true)
    known = np.isfinite(radius)

    def median(rows: np.ndarray) -> float:
        return float(np.median(error[rows])) if rows.any() else float("nan")

    return {
        "coverage": float((error <= radius)[known].mean()),
        "median_radius": float(np.median(radius[known])),
        "abstained": float(abstain.mean()),
        "median_error_kept": median(known & ~abstain),
        "median_error_abstained": median(known & abstain),
    }
