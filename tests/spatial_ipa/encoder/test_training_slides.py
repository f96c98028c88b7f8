"""Training slides as the gate, the network and the frame see them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_encoders import make_encoder
from tissue_expression import make_tissue_slide

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.eigenmaps import fit_eigenmaps
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.encoder.out_of_fold import OutOfFold
from spatial_ipa.encoder.settings import StartSettings
from spatial_ipa.encoder.training_slides import embed_training
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.layout.frame_fit import cross_fit

NORMALISATION = Normalisation("sqrt")


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return [make_tissue_slide(seed, n) for seed, n in ((0, 70), (1, 90))]


@pytest.fixture(scope="module")
def encoder(slides: list[Slide]) -> FrozenEncoder:
    panel = slides[0].genes
    expression = [Expression.of_slide(s, panel, NORMALISATION) for s in slides]
    settings = StartSettings("eigenmaps", rank=20, num_neighbours=8, smooth=4)
    xy = [s.xy for s in slides if s.xy is not None]
    trunk = fit_eigenmaps(expression, xy, settings, 10)
    return FrozenEncoder(trunk, None, panel, Split.declare(slides, []), NORMALISATION)


def test_parts_of_different_slides_are_left_out_apart(
    slides: list[Slide], encoder: FrozenEncoder
) -> None:
    """Also where their parts have the same numbers, and in any order of the slides."""
    given = slides[::-1]
    parts = [spatial_blocks(s.xy) for s in given if s.xy is not None]
    assert set(parts[0]) & set(parts[1])
    folds = [parts[0], 1000 + parts[1]]
    alone, without = OutOfFold.of(encoder, given).embed(), OutOfFold.of(encoder, given).embed(folds)
    together = OutOfFold.of(encoder, given).embed(parts)
    found = embed_training(encoder, given)
    assert [s.name for s in found] == ["tissue_1", "tissue_0"]
    for slide, part, h, known, other in zip(found, parts, without, alone, together, strict=True):
        assert slide.fold is not None
        np.testing.assert_array_equal(slide.fold, part)
        np.testing.assert_array_equal(slide.h, h)
        np.testing.assert_array_equal(slide.h_frame, known)
        assert not np.allclose(slide.h, other)


def test_an_empty_row_says_nothing_and_starts_somewhere(
    slides: list[Slide], encoder: FrozenEncoder
) -> None:
    """Row 3 of each slide has no counts."""
    frame, started = cross_fit(embed_training(encoder, slides))
    for slide in started:
        assert slide.start is not None
        assert not slide.h[3].any()
        assert np.isfinite(slide.start).all()
    assert np.isfinite(frame.predict(started[0].h)).all()


def test_an_encoder_of_a_network_gives_h_in_sample(tmp_path: Path) -> None:
    """From the cache, which is written on the first call."""
    trained = make_encoder()
    xy = np.random.default_rng(0).random((30, 2)).astype(np.float32)
    counts = np.random.default_rng(0).poisson(2.0, (30, 40))
    slide = Slide.build("s", counts, list(trained.panel), xy)
    (found,) = embed_training(trained, [slide], tmp_path)
    np.testing.assert_array_equal(found.h, trained.embed(slide, "st"))
    np.testing.assert_array_equal(found.fold, spatial_blocks(xy))
    assert found.h_frame is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_part_of_the_encoders_slides_is_refused(
    slides: list[Slide], encoder: FrozenEncoder
) -> None:
    with pytest.raises(ValueError, match="must be all those the encoder was trained on"):
        embed_training(encoder, slides[:1])


@pytest.mark.parametrize("n", [5, 12])
def test_a_single_slide_of_few_cells_has_starts(n: int) -> None:
    """It has two parts, so that neither fit is empty."""
    slide = make_tissue_slide(0, n)
    assert slide.xy is not None
    expression = Expression.of_slide(slide, slide.genes, NORMALISATION)
    settings = StartSettings("eigenmaps", rank=20, num_neighbours=8, smooth=4)
    trunk = fit_eigenmaps([expression], [slide.xy], settings, 10)
    tiny = FrozenEncoder(trunk, None, slide.genes, Split.declare([slide], []), NORMALISATION)
    _, (found,) = cross_fit(embed_training(tiny, [slide]))
    assert found.start is not None
    assert np.isfinite(found.start).all()
    assert np.abs(found.start).max() < 5


def test_a_frame_of_embeddings_that_are_not_finite_is_refused(
    slides: list[Slide], encoder: FrozenEncoder
) -> None:
    first, second = embed_training(encoder, slides)
    assert first.h_frame is not None
    broken = first.h_frame.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="slide tissue_0: embeddings hold NaN"):
        cross_fit([replace(first, h_frame=broken), second])
