"""Calibration of error radii: place validation slides as ``predict`` places cells, and compare.

The quantities are defined in :mod:`spatial_ipa.confidence.conformal`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.confidence.conformal import (
    COVERAGE,
    Calibration,
    ErrorModel,
    conformal_quantile,
    placement_errors,
)
from spatial_ipa.confidence.identifiability import NEIGHBOURS, slide_identifiability
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.layout.placement import Placement

MIN_CELLS = 50
"""Fewer cells on all validation slides together are not calibrated on."""


@dataclass(frozen=True, eq=False)
class PlacedSlide:
    """A validation slide after placement.

    Attributes:
        name: of the slide.
        content_hash: see :func:`embedded_hash`.
        error: (n,) distances to the true positions; see the module.
        features: (n, 3) spread over draws, novelty, ambiguity.
        scale: by which the layout was shrunk onto the truth.
        median_pair: median distance between two random cells, in RMS radii.
    """

    name: str
    content_hash: str
    error: np.ndarray
    features: np.ndarray
    scale: float
    median_pair: float


def cell_features(placement: Placement, novelty: np.ndarray, ambiguity: np.ndarray) -> np.ndarray:
    """(n, 3) float64 columns of the module's features.

    The spread is that of one draw about the mean of infinitely many, whatever the number of draws.
    """
    draws = len(placement.draws)
    spread = placement.spread.double().cpu().numpy() * np.sqrt(draws / (draws - 1))
    return np.stack([spread, novelty, ambiguity], axis=1)


def embedded_hash(slide: EmbeddedSlide) -> str:
    """SHA-256 of the embeddings and coordinates of a slide."""
    digest = hashlib.sha256(f"{slide.h.shape},{slide.xy.shape},".encode())
    for part in (slide.h, slide.xy):
        digest.update(np.ascontiguousarray(part, dtype="<f4").tobytes())
    return digest.hexdigest()


def place_slide(
    slide: EmbeddedSlide, place: Callable[[np.ndarray], Placement], reference: ReferenceCells
) -> PlacedSlide:
    """Place one slide from its embeddings alone and compare with its coordinates."""
    placement, evidence = place(slide.h), reference.judge(slide.h)
    error, scale = placement_errors(placement.xy.double().cpu().numpy(), slide.xy)
    x = gauge_fix_array(slide.xy)
    rng = numpy_generator_for(0)
    i = rng.integers(len(x), size=10_000)
    j = (i + rng.integers(1, len(x), size=i.size)) % len(x)  # never i itself
    return PlacedSlide(
        slide.name,
        embedded_hash(slide),
        error,
        cell_features(placement, evidence.novelty, evidence.ambiguity),
        scale,
        float(np.median(np.linalg.norm(x[i] - x[j], axis=1))),
    )


def check_slides(train: Sequence[EmbeddedSlide], val: Sequence[EmbeddedSlide]) -> None:
    """Refuse to calibrate on too few cells or on training slides.

    Raises:
        ValueError: if so.
    """
    cells = sum(len(slide.xy) for slide in val)
    if cells < MIN_CELLS:
        raise UserError(
            f"the validation slides hold {cells} cells; error radii need at least {MIN_CELLS}: "
            "give more, or set model.init_args.calibration_draws to 0"
        )
    for slide in val:
        if len(slide.xy) <= NEIGHBOURS:
            raise UserError(
                f"validation slide {slide.name} has {len(slide.xy)} cells; at least "
                f"{NEIGHBOURS + 1} are needed: leave it out"
            )
    seen = {embedded_hash(slide): slide.name for slide in train}
    for slide in val:
        if (content := embedded_hash(slide)) in seen:
            raise UserError(
                f"validation slide {slide.name} is training slide {seen[content]}: errors on "
                "slides that were trained on say nothing about new ones"
            )


def calibrate(
    placed: Sequence[PlacedSlide],
    num_draws: int,
    identifiability: Sequence[str] = (),
    seed: int = 0,
) -> Calibration:
    """Fit sigma on a random half of the cells and take the scores from the other.

    Args:
        placed: validation slides.
        num_draws: draws per placement.
        identifiability: verdict on each slide.
        seed: of the halves.
    """
    model, scores = _fit(placed, numpy_generator_for(seed))
    between = []
    for left_out in placed if len(placed) > 1 else ():
        others = [slide for slide in placed if slide is not left_out]
        if sum(len(slide.error) for slide in others) < MIN_CELLS:
            continue
        other_model, other_scores = _fit(others, numpy_generator_for(seed))
        radius = conformal_quantile(other_scores, COVERAGE) * other_model.sigma(left_out.features)
        between.append(float((left_out.error <= radius).mean()))
    return Calibration(
        model,
        scores,
        num_draws,
        float(np.mean([slide.median_pair for slide in placed])),
        float(np.mean([slide.scale for slide in placed])),
        tuple(slide.name for slide in placed),
        tuple(slide.content_hash for slide in placed),
        tuple(between),
        tuple(identifiability),
    )


def calibrate_slides(
    train: Sequence[EmbeddedSlide],
    val: Sequence[EmbeddedSlide],
    place: Callable[[np.ndarray], Placement],
    num_draws: int,
) -> tuple[ReferenceCells, Calibration]:
    """Place validation slides as `predict` would and calibrate on their errors.

    Args:
        train: slides the model was trained on; never calibrated on.
        val: held-out slides.
        place: the model, from embeddings (n, d).
        num_draws: draws that ``place`` makes.

    Raises:
        ValueError: on too few cells, or a slide in both lists.
    """
    check_slides(train, val)
    reference = ReferenceCells.sample(train)
    placed = [place_slide(slide, place, reference) for slide in val]
    verdicts = [slide_identifiability(slide.h, slide.xy).verdict for slide in val]
    return reference, calibrate(placed, num_draws, verdicts)


def _fit(placed: Sequence[PlacedSlide], rng: np.random.Generator) -> tuple[ErrorModel, np.ndarray]:
    features = np.concatenate([slide.features for slide in placed])
    error = np.concatenate([slide.error for slide in placed])
    order = rng.permutation(len(error))
    fitted, scored = order[: len(order) // 2], order[len(order) // 2 :]
    model = ErrorModel.fit(features[fitted], error[fitted])
    return model, np.sort(error[scored] / model.sigma(features[scored]))
