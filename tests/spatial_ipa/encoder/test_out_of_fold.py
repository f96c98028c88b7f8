"""H of training slides without their own folds, against dense fits that never saw the fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_encoders import make_encoder
from tissue_expression import make_tissue_slide

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder import eigenmaps
from spatial_ipa.encoder.eigenmaps import fit_eigenmaps
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.out_of_fold import OutOfFold
from spatial_ipa.encoder.settings import StartSettings
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall

NORMALISATION = Normalisation("sqrt")


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return [make_tissue_slide(seed, n) for seed, n in ((0, 70), (1, 90))]


def make_frozen(slides: list[Slide], max_landmarks: int = 1000, smooth: int = 4) -> FrozenEncoder:
    panel = slides[0].genes
    expression = [Expression.of_slide(s, panel, NORMALISATION) for s in slides]
    settings = StartSettings(
        "eigenmaps", rank=20, num_neighbours=8, max_landmarks=max_landmarks, smooth=smooth
    )
    trunk = fit_eigenmaps(expression, [s.xy for s in slides if s.xy is not None], settings, 10)
    return FrozenEncoder(trunk, None, panel, Split.declare(slides, []), NORMALISATION)


def refitted(
    encoder: FrozenEncoder, slides: list[Slide], folds: list[np.ndarray]
) -> list[np.ndarray]:
    """Fold by fold the normal equations of all rows outside it, and predictions of those inside."""
    trunk = encoder.encoder
    assert isinstance(trunk, KernelTrunk)
    expression = [Expression.of_slide(s, encoder.panel, NORMALISATION) for s in slides]
    x = torch.from_numpy(np.concatenate([e.rows(slice(None)) for e in expression]))
    kernel = trunk.kernel(x).double().numpy()  # (N, m)
    first = np.cumsum([0, *map(len, slides)])
    used = first[trunk.slide.numpy()] + trunk.row.numpy()
    among = kernel[used[trunk.landmark_rows.numpy()]]
    fold, raw = np.concatenate(folds), np.zeros((len(x), trunk.d_out))
    for value in np.unique(fold):
        seen = np.flatnonzero(fold[used] != value)
        k = kernel[used[seen]]
        left = k.T @ k + float(trunk.penalty) * among
        solution = np.linalg.lstsq(left, k.T @ trunk.targets.double().numpy()[seen], rcond=None)[0]
        raw[fold == value] = kernel[fold == value] @ solution
    raw *= float(trunk.out_scale)
    return [
        encoder.finish(torch.from_numpy(part).float(), e.filled)
        for part, e in zip(np.split(raw, first[1:-1]), expression, strict=True)
    ]


@pytest.mark.parametrize("max_landmarks", [1000, 60])
@pytest.mark.parametrize("scheme", ["cells", "slides", "mixed"])
def test_each_fold_is_predicted_by_a_fit_without_it(
    slides: list[Slide], scheme: str, max_landmarks: int
) -> None:
    encoder = make_frozen(slides, max_landmarks)
    if scheme == "cells":
        folds = [np.arange(70), 70 + np.arange(90)]
    elif scheme == "slides":
        folds = [np.zeros(70, int), np.ones(90, int)]
    else:  # folds over both slides, of 1 to some 70 cells
        rng = np.random.default_rng(0)
        folds = [np.minimum(rng.integers(0, 9, n), 5) for n in (70, 90)]
        folds[0][10] = 100
    found = OutOfFold.of(encoder, slides).embed(folds)
    for a, b in zip(found, refitted(encoder, slides, folds), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-3)
        assert a.dtype == np.float32
    if scheme == "cells":
        for a, b in zip(found, OutOfFold.of(encoder, slides).embed(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_cells_that_were_not_fitted_to_are_predicted_too(
    slides: list[Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eigenmaps, "_SLIDE_ROWS", 45)
    encoder = make_frozen(slides)
    for folds in (
        [np.arange(70), 70 + np.arange(90)],
        [np.arange(70) % 3, np.arange(90) % 3],
    ):
        found = OutOfFold.of(encoder, slides).embed(folds)
        for a, b in zip(found, refitted(encoder, slides, folds), strict=True):
            np.testing.assert_allclose(a, b, atol=5e-3)


def test_out_of_fold_finds_fewer_neighbours_than_in_sample(slides: list[Slide]) -> None:
    """And more than chance; in any order of the slides."""
    encoder = make_frozen(slides)
    k = adaptive_k(90)
    recall = []
    by_cell = OutOfFold.of(encoder, slides[::-1]).embed()[0]
    by_slide = OutOfFold.of(encoder, slides).embed([np.zeros(70, int), np.ones(90, int)])[1]
    for h in (encoder.embed(slides[1], "st"), by_cell, by_slide):
        assert slides[1].xy is not None
        recall.append(neighbour_recall(h, slides[1].xy, k, k))
    assert recall[0] > recall[1] > recall[2] > 1.5 * k / 89, recall
    filled = ~slides[1].is_empty
    assert by_cell[filled].var(axis=0).mean() == pytest.approx(1, rel=1e-5)
    assert not by_cell[3].any()  # a row without counts


def test_wrong_slides_folds_and_encoders_are_refused(slides: list[Slide]) -> None:
    encoder = make_frozen(slides)
    with pytest.raises(
        ValueError, match=r"trained on \(tissue_0, tissue_1\), got tissue_0; give these"
    ):
        OutOfFold.of(encoder, slides[:1]).embed()
    with pytest.raises(ValueError, match=r"every cell of \[70, 90\], got \[70, 89\]"):
        OutOfFold.of(encoder, slides).embed([np.zeros(70, int), np.zeros(89, int)])
    with pytest.raises(ValueError, match=r"start\.kind=eigenmaps"):
        OutOfFold.of(make_encoder(), slides).embed()
