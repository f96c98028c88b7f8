"""Error radii: the conformal guarantee, the fit, simulated tissues, and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

from common.training.callbacks import RampedModelCheckpoint
from spatial_ipa.confidence.calibration import PlacedSlide, calibrate, calibrate_slides, place_slide
from spatial_ipa.confidence.conformal import (
    Calibration,
    ErrorModel,
    conformal_quantile,
    placement_errors,
    radius_check,
)
from spatial_ipa.confidence.reference_cells import MAX_CELLS, MAX_SLIDES, ReferenceCells
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.h5ad import write_prediction
from spatial_ipa.data.simulation.files import TissueSpec, simulate_tissue
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.layout.placement import Placement, consensus
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.judge import check_options, judge_cells
from spatial_ipa.placing.load import load
from spatial_ipa.placing.options import PlacementOptions
from spatial_ipa.placing.placer import Placer
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule

WEIGHTS = (0.6, 0.0, 0.9)


def placed(n: int, seed: int, name: str = "slide") -> PlacedSlide:
    """Errors of a known law: sigma of the module times a Rayleigh deviate."""
    rng = np.random.default_rng(seed)
    features = np.exp(0.5 * rng.standard_normal((n, 3)))
    sigma = ErrorModel(-1.0, WEIGHTS).sigma(features)
    return PlacedSlide(name, f"{seed}", sigma * rng.rayleigh(size=n), features, 0.9, 1.2)


# ---- the conformal part


def test_quantile_is_that_of_the_definition() -> None:
    scores = np.arange(1.0, 10.0)  # 9 scores: 0.9 is the 9th, 0.5 the 5th
    assert conformal_quantile(scores, 0.9) == 9
    assert conformal_quantile(scores, 0.5) == 5
    assert conformal_quantile(scores, 0.501) == 6
    with pytest.raises(ValueError, match=r"coverage=0.91 needs more than the 9 .* 0.9000"):
        conformal_quantile(scores, 0.91)
    for coverage in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\)"):
            conformal_quantile(scores, coverage)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_of_exchangeable_cells(coverage: float) -> None:
    """Mean over 200 calibrations on 100 cells, each checked on 500 new ones.

    With m = 50 scores coverage is Beta(r, m + 1 - r) distributed with r = ceil(51 coverage): mean
    r / 51, standard deviation below 0.07; over 200 repetitions 0.005, plus 0.0016 binomial.
    """
    found = []
    for seed in range(200):
        calibration = calibrate([placed(100, 2 * seed)], 16)
        new = placed(500, 2 * seed + 1)
        found.append((new.error <= calibration.radius(new.features, coverage)).mean())
    assert np.mean(found) == pytest.approx(np.ceil(51 * coverage) / 51, abs=0.02)


def test_coverage_holds_for_a_wrong_model_of_sigma() -> None:
    """Errors that have nothing to do with the features are covered all the same."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        old, new = (
            PlacedSlide("s", "", rng.exponential(size=n), rng.random((n, 3)), 1.0, 1.2)
            for n in (200, 500)
        )
        found.append((new.error <= calibrate([old], 16).radius(new.features)).mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.02)


def test_the_law_of_errors_is_recovered() -> None:
    model = calibrate([placed(20_000, 0)], 16).model
    assert model.weights == pytest.approx(WEIGHTS, abs=0.08)


def test_radii_grow_with_every_feature_and_with_coverage() -> None:
    """Also where the data say otherwise: weights are never negative."""
    slide = placed(400, 0)
    opposed = replace(slide, features=1 / slide.features)
    assert calibrate([opposed], 16).model.weights == (0.0, 0.0, 0.0)
    calibration = calibrate([slide], 16)
    assert min(calibration.model.weights) >= 0
    low = calibration.radius(slide.features)
    for column in range(3):
        more = slide.features.copy()
        more[:, column] *= 2
        assert (calibration.radius(more) >= low).all()
    assert (calibration.radius(slide.features, 0.95) > low).all()


def test_halves_do_not_overlap_and_seed_decides() -> None:
    slide = placed(101, 0)
    assert len(calibrate([slide], 16).scores) == 51
    one, again, other = (calibrate([slide], 16, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, other.scores)


def test_coverage_between_slides_shows_a_slide_unlike_the_others() -> None:
    slides = [placed(300, seed, f"s{seed}") for seed in range(3)]
    alike = calibrate(slides, 16).between_slides
    assert len(alike) == 3
    assert min(alike) > 0.8
    unlike = [*slides[:2], replace(slides[2], error=3 * slides[2].error)]
    assert calibrate(unlike, 16).between_slides[2] < 0.5
    assert calibrate(slides[:1], 16).between_slides == ()


def test_errors_are_those_of_procrustes() -> None:
    rng = np.random.default_rng(0)
    true = 100 + 30 * rng.random((80, 2))
    pred = true @ np.array([[0.6, 0.8], [0.8, -0.6]]) * 0.01 + 0.05 * rng.random((80, 2))
    error, scale = placement_errors(pred, true)
    assert np.sqrt((error**2).mean()) == pytest.approx(procrustes_rmse(pred, true))
    assert (error**2).mean() == pytest.approx(procrustes(true, pred)[2])
    assert 0 < scale <= 1


def test_radius_check() -> None:
    true = np.random.default_rng(0).random((50, 2))
    abstain = np.arange(50) < 10
    radius = np.full(50, 0.1)
    radius[:2] = np.nan
    found = radius_check(radius, abstain, true, true)
    assert found["coverage"] == 1
    assert found["abstained"] == 0.2
    assert found["median_radius"] == pytest.approx(0.1)
    assert np.isnan(radius_check(radius, abstain & False, true, true)["median_error_abstained"])


# ---- training cells


def embedded(name: str, n: int = 150, seed: int = 0, fold: bool = False) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2))
    seen = np.stack([np.abs(xy[:, 0]), xy[:, 1]], 1) if fold else xy
    h = np.concatenate([2 * seen, 0.05 * rng.standard_normal((n, 6))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), (50 * xy + 9).astype(np.float32))


def test_evidence_about_cells_like_those_of_training() -> None:
    reference = ReferenceCells.sample([embedded("a"), embedded("b", seed=1)])
    new = embedded("c", seed=2).h
    plain = reference.judge(new)
    assert np.median(plain.novelty) == pytest.approx(1, abs=0.15)
    assert plain.ambiguity.max() < 0.6
    assert plain.multimodal.mean() < 0.05
    assert (reference.judge(new + 5).novelty > 3).all()
    folded = ReferenceCells.sample([embedded("a", fold=True), embedded("b", seed=1, fold=True)])
    found = folded.judge(embedded("c", seed=2, fold=True).h)
    far = found.ambiguity > 0.7  # cells on the fold are where they are
    assert 0.3 < far.mean() < 0.9
    assert found.multimodal[far].mean() > 0.7


def test_ambiguity_of_uninformative_embeddings_is_one() -> None:
    rng = np.random.default_rng(0)
    slides = [
        replace(embedded(name, 400, seed), h=rng.standard_normal((400, 8)).astype(np.float32))
        for seed, name in enumerate("ab")
    ]
    found = ReferenceCells.sample(slides).judge(rng.standard_normal((500, 8)))
    assert np.sqrt((found.ambiguity**2).mean()) == pytest.approx(1, abs=0.03)


def test_reference_is_bounded_and_deterministic() -> None:
    slides = [embedded(f"s{i}", 30, i) for i in range(20)] + [embedded("big", 700)]
    reference = ReferenceCells.sample(slides)
    assert len(reference.names) == MAX_SLIDES
    assert reference.names == ReferenceCells.sample(slides).names
    (big,) = ReferenceCells.sample([slides[-1]]).h
    assert len(big) == MAX_CELLS
    assert len(np.unique(big, axis=0)) == MAX_CELLS


def test_reference_refuses() -> None:
    with pytest.raises(ValueError, match="slides is empty"):
        ReferenceCells.sample([])
    with pytest.raises(ValueError, match="slide tiny has 20 cells; at least 21"):
        ReferenceCells.sample([embedded("tiny", 20)])
    with pytest.raises(ValueError, match=r"h must have shape \(n, 8\), got \(5, 3\)"):
        ReferenceCells.sample([embedded("a")]).judge(np.zeros((5, 3)))


# ---- simulated tissue, with regression in the place of the model


class Regression:
    """Places cells by 10-neighbour regression on the anatomical frame, draws on random halves."""

    def __init__(self, slides: list[EmbeddedSlide]) -> None:
        self.h = np.concatenate([slide.h for slide in slides])
        self.xy = np.concatenate([slide.xy for slide in slides])

    def __call__(self, h: np.ndarray) -> Placement:
        rng, draws = np.random.default_rng(0), []
        for _ in range(8):
            half = rng.permutation(len(self.h))[: len(self.h) // 2]
            draws.append(KNeighborsRegressor(10).fit(self.h[half], self.xy[half]).predict(h))
        return consensus(torch.from_numpy(np.stack(draws)).float())


def simulated(mirror: bool) -> list[EmbeddedSlide]:
    """Seven slides, components of expression fitted on the first three, in the anatomical frame."""
    spec = TissueSpec(num_slides=7, num_genes=200, num_cells=0, mirror_symmetric=mirror)
    tissue = simulate_tissue(spec)
    log = [normalise(slide.X, logged=False) for slide in tissue.slides]
    pca = PCA(10, random_state=0).fit(np.concatenate(log[:3]))
    return [
        EmbeddedSlide(f"s{i}", pca.transform(x).astype(np.float32), xy)
        for i, (x, xy) in enumerate(zip(log, tissue.anatomy, strict=True))
    ]


def calibrated(slides: list[EmbeddedSlide]) -> tuple[ReferenceCells, Calibration, Regression]:
    place = Regression(slides[:3])
    return (*calibrate_slides(slides[:3], slides[3:5], place, 8), place)


@pytest.fixture(scope="module")
def plain_tissue() -> tuple[list[EmbeddedSlide], ReferenceCells, Calibration, Regression]:
    slides = simulated(False)
    return (slides, *calibrated(slides))


@pytest.fixture(scope="module")
def mirror_tissue() -> tuple[list[EmbeddedSlide], ReferenceCells, Calibration, Regression]:
    slides = simulated(True)
    return (slides, *calibrated(slides))


Tissue = tuple[list[EmbeddedSlide], ReferenceCells, Calibration, Regression]


@pytest.mark.parametrize("name", ["plain_tissue", "mirror_tissue"])
def test_radii_cover_fresh_slides(name: str, request: pytest.FixtureRequest) -> None:
    """Two new slides of 300 cells, 300 scores: standard error sqrt(0.09 (1/600 + 1/300)) = 0.021.

    Four of these are allowed, for the slides' own share comes on top.
    """
    slides, reference, calibration, place = request.getfixturevalue(name)
    new = [place_slide(slide, place, reference) for slide in slides[5:]]
    held = np.concatenate([slide.error <= calibration.radius(slide.features) for slide in new])
    assert held.mean() == pytest.approx(0.9, abs=0.084)
    assert len(calibration.between_slides) == 2


def test_mirror_symmetric_tissue_gets_larger_radii(
    plain_tissue: Tissue, mirror_tissue: Tissue
) -> None:
    radius, ambiguity, abstained = [], [], []
    for slides, reference, calibration, place in (plain_tissue, mirror_tissue):
        new = place_slide(slides[5], place, reference)
        radius.append(calibration.radius(new.features))
        ambiguity.append(np.median(new.features[:, 2]))
        abstained.append((radius[-1] > calibration.median_pair).mean())
    assert np.median(radius[1]) > 1.5 * np.median(radius[0])
    assert ambiguity[1] > 1.25 * ambiguity[0]
    assert abstained[0] < 0.01
    assert abstained[1] > 0.1
    assert set(plain_tissue[2].identifiability) == {"identifiable"}
    assert all("mirror-symmetric" in verdict for verdict in mirror_tissue[2].identifiability)


def test_within_a_symmetric_tissue_the_worse_cells_have_the_larger_radii(
    mirror_tissue: Tissue,
) -> None:
    """Cells near the mirror axis are where they are; far from it they may be on either side."""
    slides, reference, calibration, place = mirror_tissue
    new = place_slide(slides[5], place, reference)
    radius = calibration.radius(new.features)
    small, large = radius < np.quantile(radius, 1 / 3), radius > np.quantile(radius, 2 / 3)
    assert np.median(new.error[large]) > 1.5 * np.median(new.error[small])


def test_training_slides_and_small_slides_are_refused() -> None:
    a, b = embedded("a"), embedded("b", seed=1)
    with pytest.raises(ValueError, match="validation slide copy is training slide a"):
        calibrate_slides([a, b], [replace(a, name="copy")], Regression([a]), 8)
    with pytest.raises(ValueError, match=r"hold 40 cells; .* at least 50"):
        calibrate_slides([a], [embedded("c", 40, 3)], Regression([a]), 8)
    with pytest.raises(ValueError, match=r"slide d has 15 cells; .* 21"):
        calibrate_slides([a], [b, embedded("d", 15, 3)], Regression([a]), 8)


# ---- what is written, and checkpoints


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


@pytest.mark.parametrize("draws", [-1, 1])
def test_bad_number_of_draws(draws: int) -> None:
    with pytest.raises(ValueError, match=f"calibration_draws must be 0 or at least 2, got {draws}"):
        SpatialIPAModule(NetworkSettings(8), calibration_draws=draws)


OVERRIDDEN = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")


def fit(
    folder: Path, val: list[EmbeddedSlide], draws: int = 3, monitored: bool = False
) -> tuple[SpatialIPAModule, Placer]:
    """A short fit; returns the module with its last weights and what it exported."""
    torch.manual_seed(0)
    settings = MinisetSettings(
        per_epoch=4, val_per_slide=1, batch_size=2, size_min=60, size_max=80, num_candidates=15
    )
    train = [embedded("a"), embedded("b", seed=1)]
    path = folder / "model.ckpt"
    module = SpatialIPAModule(
        NetworkSettings(8, 16, 2, 8, 2), schedule=Schedule(gate_steps=2, ramp_epochs=0, lr=1e-2),
        export=str(path), calibration_draws=draws,
    )  # fmt: skip
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False,
        enable_checkpointing=monitored, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[RampedModelCheckpoint(dirpath=folder, monitor="val/e_geo", mode="max")]
        if monitored else None,
    )  # fmt: skip
    trainer.fit(module, datamodule=MinisetDataModule(train, val, settings))
    return module, load(path)


@OVERRIDDEN
@pytest.mark.parametrize("monitored", [False, True])
def test_a_fit_exports_radii_of_the_exported_weights(monitored: bool, tmp_path: Path) -> None:
    """Monitored with mode="max", the exported epoch is the worst one and not the last."""
    val = embedded("v", 200, 2)
    module, exported = fit(tmp_path, [val], monitored=monitored)
    calibration, reference = exported.context.calibration, exported.context.reference
    assert calibration is not None
    assert reference is not None
    assert calibration.slides == ("v",)
    assert calibration.num_draws == 3
    weights, last = exported.network.state_dict(), module.model.state_dict()
    same = all(torch.equal(weights[name], last[name]) for name in weights)
    assert same != monitored
    again = exported.calibrated([embedded("a"), embedded("b", seed=1)], [val], 3)
    assert again.context.calibration is not None
    np.testing.assert_allclose(again.context.calibration.scores, calibration.scores, rtol=1e-5)


@OVERRIDDEN
@pytest.mark.filterwarnings("ignore:Total length of `list`")
@pytest.mark.parametrize("val", [0, 1])
def test_without_radii_an_export_still_has_its_training_cells(val: int, tmp_path: Path) -> None:
    """No validation slides, or no draws for calibration."""
    _, exported = fit(tmp_path, [embedded("v", 200, 2)][:val], draws=0 if val else 3)
    assert exported.context.calibration is None
    assert exported.context.reference is not None
    assert exported.context.reference.names == ("a", "b")


def test_a_slide_that_could_not_be_calibrated_on_is_refused_before_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="validation slide again is training slide a"):
        fit(tmp_path, [replace(embedded("a"), name="again")])
    assert not (tmp_path / "model.ckpt").exists()


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
