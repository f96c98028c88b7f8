"""Which confidences are given, what is written about them, and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from regressed_tissues import Tissue, calibrated, simulated

from spatial_ipa.confidence.calibration import place_slide
from spatial_ipa.data.anndata_file import write_prediction
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.judge import check_options, judge_cells
from spatial_ipa.placing.options import PlacementOptions


@pytest.fixture(scope="module")
def plain_tissue() -> Tissue:
    slides = simulated(False)
    return (slides, *calibrated(slides))


def context_of(tissue: Tissue) -> PlacementContext:
    _, reference, calibration, _ = tissue
    return PlacementContext(None, 20, 384, 0.3, None, reference, calibration)


def test_calibration_survives_a_checkpoint(plain_tissue: Tissue, tmp_path: Path) -> None:
    context = context_of(plain_tissue)
    torch.save(context.state(), tmp_path / "context.pt")
    state = torch.load(tmp_path / "context.pt", weights_only=True)
    again = PlacementContext.from_state(state)
    assert again.reference is not None
    assert again.calibration is not None
    slides, reference, calibration, place = plain_tissue
    before = place_slide(slides[6], place, reference)
    after = place_slide(slides[6], place, again.reference)
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(
        calibration.radius(before.features), again.calibration.radius(after.features)
    )
    assert again.calibration.slides == ("s3", "s4")
    assert [len(value) for value in again.calibration.content_hashes] == [64, 64]
    for name in ("num_draws", "median_pair", "scale", "between_slides", "identifiability"):
        assert getattr(again.calibration, name) == getattr(calibration, name)
    state["calibration"]["version"] = 99
    with pytest.raises(ValueError, match="calibration has version 99, expected 1; train it anew"):
        PlacementContext.from_state(state)


def judge(
    tissue: Tissue, options: PlacementOptions, context: PlacementContext | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    slides, _, _, place = tissue
    h = slides[6].h
    return judge_cells(context or context_of(tissue), h, place(h), options)


EIGHT = PlacementOptions(num_draws=8)


def test_columns_and_what_they_rest_on(plain_tissue: Tissue) -> None:
    columns, about = judge(plain_tissue, EIGHT)
    assert set(columns) == {"radius", "abstain", "ambiguity", "multimodal"}
    assert np.isfinite(columns["radius"]).all()
    assert columns["abstain"].dtype == bool
    assert about["slides"] == ["s3", "s4"]
    assert about["coverage"] == 0.9
    assert "missing" not in about
    threshold = float(np.median(columns["radius"]))
    half, _ = judge(plain_tissue, replace(EIGHT, abstain_above=threshold))
    assert half["abstain"].mean() == pytest.approx(0.5, abs=0.02)
    wider, _ = judge(plain_tissue, replace(EIGHT, coverage=0.95))
    assert np.min(wider["radius"] - columns["radius"]) > 0


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_radii_are_in_the_unit_of_the_layout(scale: float, plain_tissue: Tissue) -> None:
    """Shrunk by ``scale`` the layout fits the tissue best: there radii are as calibrated."""
    slides, reference, calibration, place = plain_tissue
    context = replace(context_of(plain_tissue), calibration=replace(calibration, scale=scale))
    columns, about = judge(plain_tissue, EIGHT, context)
    in_tissue = calibration.radius(place_slide(slides[6], place, reference).features)
    np.testing.assert_allclose(columns["radius"] * scale, in_tissue)
    assert about["abstain_above"] == pytest.approx(calibration.median_pair / scale)
    np.testing.assert_array_equal(columns["abstain"], in_tissue > calibration.median_pair)
    given, _ = judge(plain_tissue, replace(EIGHT, abstain_above=0.7), context)
    np.testing.assert_array_equal(given["abstain"], columns["radius"] > 0.7)


def test_few_or_equal_cells_get_no_radii(plain_tissue: Tissue) -> None:
    """They are laid out over the whole tissue whatever part of it they come from."""
    slides, _, _, place = plain_tissue
    context, h = context_of(plain_tissue), slides[6].h
    for part, reason in ((h[:49], "49 cells"), (np.repeat(h[:1], 80, 0), "the same embedding")):
        columns, about = judge_cells(context, part, place(part), EIGHT)
        assert set(columns) == {"ambiguity", "multimodal"}
        assert reason in about["missing"]
    assert "radius" in judge_cells(context, h[:50], place(h[:50]), EIGHT)[0]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, r"num_hypotheses=2 needs the common frame .*\(model.init_args.common_frame\)"),
        (
            FrameRegression(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(2), 1.0, 1.0, 8.0),
            "holds no charts",
        ),
    ],
)
def test_hypotheses_without_charts_are_refused_before_placing(
    frame: FrameRegression | None, message: str
) -> None:
    context, h = PlacementContext(None, 20, 384, 0.3, frame=frame), np.zeros((3, 2))
    with pytest.raises(ValueError, match=message):
        check_options(context, h, PlacementOptions(num_hypotheses=2))
    check_options(context, h, PlacementOptions())


def test_a_coverage_too_high_is_refused_before_placing(plain_tissue: Tissue) -> None:
    context, h = context_of(plain_tissue), plain_tissue[0][6].h
    high = replace(EIGHT, coverage=0.99999)
    with pytest.raises(ValueError, match=r"coverage=0.99999 needs more than the \d+ calibration"):
        check_options(context, h, high)
    check_options(context, h, EIGHT)
    check_options(context, h, replace(high, num_draws=2))  # no radii there anyway
    check_options(replace(context, calibration=None), h, high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_draws": 7}, "calibrated with num_draws=8, placed with 7"),
        ({"inference": "stitched"}, "calibrated with inference=auto, which is whole here"),
    ],
)
def test_other_placements_get_no_radii(
    change: dict[str, object], message: str, plain_tissue: Tissue
) -> None:
    columns, about = judge(plain_tissue, replace(EIGHT, **change))  # type: ignore[arg-type]
    assert set(columns) == {"ambiguity", "multimodal"}
    assert message in about["missing"]


@pytest.mark.parametrize("change", [{"num_draws": 9}, {"inference": "whole"}, {"seed": 5}])
def test_equal_placements_get_radii(change: dict[str, object], plain_tissue: Tissue) -> None:
    assert "radius" in judge(plain_tissue, replace(EIGHT, **change))[0]  # type: ignore[arg-type]


def test_without_calibration_it_is_said_why(plain_tissue: Tissue) -> None:
    context = context_of(plain_tissue)
    columns, about = judge(plain_tissue, EIGHT, replace(context, calibration=None))
    assert set(columns) == {"ambiguity", "multimodal"}
    assert "without validation slides" in about["missing"]
    columns, about = judge(plain_tissue, EIGHT, replace(context, calibration=None, reference=None))
    assert not columns
    assert "not an export" in about["missing"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coverage": 1.0}, r"coverage must lie in \(0, 1\), got 1.0"),
        ({"coverage": float("nan")}, "coverage must lie in"),
        ({"abstain_above": 0.0}, "abstain_above must be positive or null, got 0.0"),
        ({"abstain_above": float("nan")}, "abstain_above must be positive"),
    ],
)
def test_bad_options(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlacementOptions(**values)  # type: ignore[arg-type]


def test_columns_and_reasons_go_through_a_file(plain_tissue: Tissue, tmp_path: Path) -> None:
    n = len(plain_tissue[0][6].h)
    ad.AnnData(np.ones((n, 3), np.float32)).write_h5ad(tmp_path / "in.h5ad")
    for name, options in (("yes", EIGHT), ("no", replace(EIGHT, num_draws=2))):
        columns, about = judge(plain_tissue, options)
        write_prediction(
            tmp_path / "in.h5ad",
            tmp_path / f"{name}.h5ad",
            obs={f"spatial_ipa_{key}": value for key, value in columns.items()},
            uns={"spatial_ipa": {"calibration": about}},
        )
        read = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        for key, value in columns.items():
            np.testing.assert_array_equal(read.obs[f"spatial_ipa_{key}"], value)
        assert ("spatial_ipa_radius" in read.obs) == (name == "yes")
        assert read.uns["spatial_ipa"]["calibration"].keys() == about.keys()
