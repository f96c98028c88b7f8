"""Charts: against dense algebra and loops, on tissues whose ambiguity is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from spatial_ipa.data.expression import normalise
from spatial_ipa.data.simulation.tissue import TissueSpec, simulate_tissue
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.geometry.several import nearest_hypothesis
from spatial_ipa.layout import charts as module
from spatial_ipa.layout import frame_fit
from spatial_ipa.layout import frame_regression as common_frame
from spatial_ipa.layout.charts import (
    Charts,
    TrainingCells,
    cut,
    fit_charts,
    merged,
    nearest_outside,
    shares,
)
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.placement import Placement

Array = np.ndarray
Fold = Callable[[Array], Array]


def mirrored(xy: Array) -> Array:
    return np.column_stack([np.abs(xy[:, 0]), xy[:, 1]])


def half_turn(xy: Array) -> Array:
    """A point and its opposite have the same place in the upper half."""
    return np.where(xy[:, 1:] < 0, -xy, xy)


def repeated(xy: Array) -> Array:
    """Two units beside each other."""
    return np.column_stack([xy[:, 0] % 2.0, xy[:, 1]])


def threefold(xy: Array) -> Array:
    """Three units beside each other."""
    return np.column_stack([(xy[:, 0] + 2.0) % (4 / 3), xy[:, 1]])


def single(xy: Array) -> Array:
    return xy


def tissue(seed: int, fold: Fold, n: int = 250, noise: float = 0.05) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the folded position."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2)) * [2.0, 1.2]
    x, y = fold(xy).T
    h = np.stack([x, y, np.cos(1.5 * x), np.sin(1.5 * y), np.sin(x + y)], axis=1)
    h = h + noise * rng.standard_normal(h.shape)
    fold_of = np.arange(n) % 10
    return EmbeddedSlide(f"s{seed}", h.astype(np.float32), xy.astype(np.float32), fold=fold_of)


def turned(s: EmbeddedSlide, angle: float, mirror: bool = False) -> EmbeddedSlide:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if mirror else 1.0, 1.0])
    return replace(s, xy=(30 * s.xy.astype(np.float64) @ turn + [100.0, 7.0]).astype(np.float32))


def regions_of(train: list[EmbeddedSlide]) -> tuple[frame_fit._Registered, module.Regions]:
    """What the frame is fitted to, and its two regions."""
    data = frame_fit._Registered.of(train, 0)
    folds = [s.fold for s in train if s.fold is not None]
    new, fold = frame_fit._as_new(data, train, folds)
    return data, cut(data.target, *frame_fit._left_out_neighbours(data, new, fold, 0))[0]


def regression_alone(frame: FrameRegression, h: Array) -> Placement:
    x = torch.from_numpy(gauge_fix_array(frame.averaged(h)))
    return Placement(x, x[None])


def placed(
    fold: Fold, count: int = 2, seeds: tuple[int, int, int] = (0, 1, 2)
) -> tuple[Array, Array, Array, Array]:
    """Layout, hypotheses and weights of a held-out tissue, and its true positions."""
    frame, _ = cross_fit([tissue(seed, fold) for seed in seeds[:2]])
    new = tissue(seeds[2], fold)
    placement = regression_alone(frame, new.h)
    found, weight = frame.hypotheses(placement, new.h, count)
    return placement.xy.numpy(), found, weight, new.xy.astype(np.float64)


@pytest.mark.parametrize("fold", [mirrored, half_turn, repeated])
def test_the_nearer_of_two_is_right_where_the_layout_collapses(fold: Fold) -> None:
    layout, found, weight, true = placed(fold)
    single_error = procrustes_rmse(layout, true)
    assert single_error > 0.5
    assert nearest_hypothesis(found, true)[1] < 0.5 * single_error
    assert 0.3 < weight[:, 1].mean() <= 0.5  # both places are as likely


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_simulated_tissue_the_nearer_of_two_beats_the_layout_and_its_mirror_image(
    seed: int,
) -> None:
    """The mirror image is about whichever of 12 lines suits the true positions best."""
    spec = TissueSpec(num_slides=3, num_genes=200, num_cells=0, mirror_symmetric=True, seed=seed)
    slides = simulate_tissue(spec).slides
    log = [normalise(s.X, logged=False) for s in slides]
    pca = PCA(10, random_state=0).fit(np.concatenate(log[:2]))
    embedded = [
        EmbeddedSlide(f"s{i}", pca.transform(x).astype(np.float32), s.obsm["spatial"],
                      fold=spatial_blocks(s.obsm["spatial"]))
        for i, (x, s) in enumerate(zip(log, slides, strict=True))
    ]  # fmt: skip
    frame, _ = cross_fit(embedded[:2])
    new = embedded[2]
    placement = regression_alone(frame, new.h)
    layout = placement.xy.numpy()
    error = nearest_hypothesis(frame.hypotheses(placement, new.h, 2)[0], new.xy)[1]
    assert error <= 0.7 * procrustes_rmse(layout, new.xy)
    angles = np.pi * np.arange(12) / 12
    mirror = [
        layout - 2 * np.outer(layout @ u, u) for u in np.stack([np.cos(angles), np.sin(angles)], 1)
    ]
    pairs = [nearest_hypothesis(np.stack([layout, m], 1), new.xy)[1] for m in mirror]
    assert error < min(pairs)


def test_three_places_need_three_hypotheses() -> None:
    frame, _ = cross_fit([tissue(0, threefold, 500)])
    new = tissue(1, threefold)
    placement = regression_alone(frame, new.h)
    two, three = (
        nearest_hypothesis(frame.hypotheses(placement, new.h, count)[0], new.xy)[1]
        for count in (2, 3)
    )
    assert three < 0.6 * two


@pytest.mark.parametrize(("signs", "trust"), [([1, 1, 1], 1.0), ([1, -1, 0], 0.0)])
def test_sides_that_only_the_training_slides_know_are_not_trusted(
    signs: list[int], trust: float
) -> None:
    """A feature that tells the sides apart, on all slides alike or on each in its own way."""
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, 2, 600), np.repeat([0, 1, 2], 200)
    told = np.array(signs)[group] * (2 * label - 1) + 0.3 * rng.standard_normal(600)
    phi = np.column_stack([np.ones(600), told])
    cells = TrainingCells(phi, phi, rng.standard_normal((600, 2)), group)
    regions = module.Regions(label, 2, np.ones(2), 1.0)
    charts = fit_charts(cells, np.diag([0.0, 1.0]), np.eye(1), regions)
    assert charts.trust == pytest.approx(trust, abs=0.05)
    _, mass = charts.of_kernels(np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(mass[:, 1], [0.5 + trust / 2, 0.5 - trust / 2], atol=0.1)


@pytest.mark.parametrize("count", [2, 3])
def test_a_single_place_stays_single(count: int) -> None:
    layout, found, weight, _ = placed(single, count)
    np.testing.assert_array_equal(weight, np.tile(np.eye(count)[0], (len(layout), 1)))
    np.testing.assert_array_equal(found, np.repeat(layout[:, None], count, axis=1))


def test_a_tissue_that_is_mirrored_in_part_is_ambiguous_in_that_part() -> None:
    """Below y = -0.3 expression tells the sides apart."""

    def partly(xy: Array) -> Array:
        return np.where(xy[:, 1:] < -0.3, xy, mirrored(xy))

    layout, found, weight, true = placed(partly)
    known = true[:, 1] < -0.5
    unknown = (true[:, 1] > 0) & (np.abs(true[:, 0]) > 0.7)
    assert weight[known, 1].mean() < 0.15
    assert weight[unknown, 1].mean() > 0.35
    errors = [np.linalg.norm(found[:, m] - layout, axis=1) for m in (0, 1)]
    assert errors[0][known].mean() < 0.3 * errors[0][unknown].mean()


def test_hypotheses_equal_their_definition() -> None:
    fitted, _ = cross_fit([tissue(0, mirrored)])
    wide = replace(fitted.charts[0], spread=np.array([0.3, 0.4]))  # some cells have one place
    frame = replace(fitted, charts=(wide,))
    h, noise = tissue(1, mirrored).h, np.random.default_rng(0).normal(0, 0.2, (250, 2))
    x = gauge_fix_array(frame.averaged(h) @ [[0.6, 0.8], [0.8, -0.6]] + noise)
    layout = Placement(torch.from_numpy(x), torch.from_numpy(x)[None])
    found, weight = frame.hypotheses(layout, h, 2)
    values = np.exp(-frame.gamma * cdist(h.astype(np.float64), frame.centres) ** 2)
    position, mass = frame.charts[0].of_kernels(values)
    alike = np.exp(-frame.sharpness * cdist(h.astype(np.float64), h.astype(np.float64), "cosine"))
    alike /= alike.sum(axis=1, keepdims=True)
    position, mass, z = (
        np.einsum("ij,j...->i...", alike, v) for v in (position, mass, frame.predict(h))
    )
    position, mass = merged(position, mass, frame.charts[0].spread)
    u, singular, vt = np.linalg.svd((z - z.mean(axis=0)).T @ x)
    scale = singular.sum() / ((z - z.mean(axis=0)) ** 2).sum()
    expected = x[:, None] + scale * (position - z[:, None]) @ u @ vt
    one = mass[:, 1] == 0
    assert 0 < one.sum() < 125
    expected[one] = x[one, None]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(weight, mass, atol=1e-12)
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-12)


def test_poses_of_training_slides_do_not_matter() -> None:
    train, new = [tissue(0, mirrored), tissue(1, mirrored)], tissue(2, mirrored)
    posed = [turned(s, 0.9 * i, i == 1) for i, s in enumerate(train, start=1)]
    frames = [cross_fit(slides)[0] for slides in (train, posed)]
    placement = regression_alone(frames[0], new.h)
    (first, weight), (second, same) = (f.hypotheses(placement, new.h, 2) for f in frames)
    np.testing.assert_allclose(second, first, atol=2e-4)  # coordinates are float32
    np.testing.assert_allclose(same, weight, atol=1e-4)


def test_hypotheses_turn_with_the_layout() -> None:
    frame, _ = cross_fit([tissue(0, mirrored)])
    h = tissue(1, mirrored).h
    placement = regression_alone(frame, h)
    turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)  # a reflection
    posed = Placement(placement.xy @ turn, placement.draws @ turn)
    np.testing.assert_allclose(
        frame.hypotheses(posed, h, 2)[0], frame.hypotheses(placement, h, 2)[0] @ turn.numpy(),
        atol=1e-9,
    )  # fmt: skip


def test_order_of_cells_does_not_matter() -> None:
    frame, _ = cross_fit([tissue(0, mirrored)])
    h, order = tissue(1, mirrored).h, np.random.default_rng(0).permutation(250)
    placement = regression_alone(frame, h)
    shuffled = Placement(placement.xy[order], placement.draws[:, order])
    found, weight = frame.hypotheses(placement, h, 2)
    again, same = frame.hypotheses(shuffled, h[order], 2)
    np.testing.assert_allclose(again, found[order], atol=1e-9)
    np.testing.assert_allclose(same, weight[order], atol=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, _ = cross_fit([tissue(0, mirrored)])
    h = tissue(1, mirrored).h
    placement = regression_alone(frame, h)
    whole = frame.hypotheses(placement, h, 2)
    monkeypatch.setattr(common_frame, "_BLOCK", 37)
    for a, b in zip(frame.hypotheses(placement, h, 2), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_charts_equal_dense_regressions_on_their_regions() -> None:
    """Kernel ridge with intercept in its primal form on kernel rows, region by region."""
    train, new = tissue(0, mirrored), tissue(1, mirrored)
    frame, _ = cross_fit([train])
    charts = frame.charts[0]
    fit, regions = regions_of([train])
    kernel, there = (
        np.exp(-frame.gamma * cdist(x, fit.h) ** 2) for x in (fit.h, new.h.astype(np.float64))
    )
    position, mass = charts.of_kernels(
        np.exp(-frame.gamma * cdist(new.h.astype(np.float64), frame.centres) ** 2)
    )
    for m in range(2):
        own = regions.label == m
        dense = dense_ridge(kernel[np.ix_(own, own)], fit.target[own], there[:, own], frame.penalty)
        np.testing.assert_allclose(position[:, m], dense, atol=1e-4)
    indicator = (regions.label[:, None] == np.arange(2)).astype(float)
    prior = indicator.mean(axis=0)
    told = shares(dense_ridge(kernel, indicator, there, frame.penalty))
    np.testing.assert_allclose(mass, prior + charts.trust * (told - prior), atol=1e-4)


def dense_ridge(kernel: Array, y: Array, query: Array, penalty: float) -> Array:
    """Dual kernel ridge with intercept."""
    n = len(kernel)
    shrunk = kernel + penalty * np.eye(n)
    system = np.block([[shrunk, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    dual = np.linalg.solve(system, np.vstack([y, np.zeros((1, y.shape[1]))]))
    return np.asarray(query @ dual[:n] + dual[n])


def test_the_line_is_the_mirror_axis() -> None:
    train = [tissue(seed, mirrored, 400) for seed in (0, 1)]
    fit, regions = regions_of(train)
    right = np.concatenate([s.xy[:, 0] > 0 for s in train])[fit.slide * 400 + fit.row]
    for s in (0, 1):  # the slides may have been registered mirrored
        own = fit.slide == s
        same = (regions.label[own] == 1) == right[own]
        assert max(same.mean(), 1 - same.mean()) > 0.93


def test_the_likelihood_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    xy, label = rng.standard_normal((40, 2)), rng.integers(0, 3, 40)
    sample = np.arange(0, 40, 2)
    near = np.stack([rng.choice(40, 7, replace=False) for _ in sample])
    value, spread = module._likelihood(xy, sample, near, label)
    middle = [xy[label == m].mean(axis=0) for m in range(3)]
    mean = np.array(
        [
            [np.mean([*(xy[j] for j in row if label[j] == m), middle[m]], axis=0) for m in range(3)]
            for row in near
        ]
    )
    share = np.array([[(sum(label[row] == m) + 1) / 10 for m in range(3)] for row in near])
    covariance = []
    for m in range(3):
        away = [xy[i] - mean[q, m] for q, i in enumerate(sample) if label[i] == m]
        products = [np.outer(a, a) for a in away] + [np.cov(xy[label == m].T, ddof=0)]
        covariance.append(np.mean(products, axis=0))
    expected = np.mean([
        np.log(sum(share[q, m] * multivariate_normal(mean[q, m], covariance[m]).pdf(xy[i])
                   for m in range(3)))
        for q, i in enumerate(sample)
    ])  # fmt: skip
    assert value == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(spread, [np.sqrt(np.trace(c) / 2) for c in covariance])


def test_no_cell_is_a_neighbour_of_its_own_fold() -> None:
    rng = np.random.default_rng(0)
    h, fold = rng.standard_normal((60, 3)), rng.integers(0, 6, 60)
    near = nearest_outside(h, h, fold)
    assert near.shape == (60, 20)
    for i, row in enumerate(near):
        outside = np.flatnonzero(fold != fold[i])
        apart = np.linalg.norm(h[outside] - h[i], axis=1)
        np.testing.assert_array_equal(row, outside[np.argsort(apart, kind="stable")[:20]])


def merged_loop(y: Array, p: Array, spread: Array) -> tuple[Array, Array]:
    """One cell: the lighter of two near places goes into the heavier, in order of mass."""
    kept: list[list[int]] = []
    for m in np.argsort(-p, kind="stable"):
        for group in kept:
            total = p[group].sum()
            middle = p[group] @ y[group] / total if total else y[group[0]]
            if np.linalg.norm(y[m] - middle) <= 2 * min(spread[m], spread[group[0]]):
                group.append(m)
                break
        else:
            kept.append([m])
    masses = np.array([p[g].sum() for g in kept])
    middles = np.array([np.average(y[g], axis=0, weights=p[g] + 1e-300) for g in kept])
    order = np.argsort(-masses, kind="stable")
    return middles[order], masses[order]


@pytest.mark.parametrize("count", [2, 3])
def test_merging_equals_a_loop(count: int) -> None:
    rng = np.random.default_rng(count)
    y = rng.standard_normal((300, count, 2))
    p = shares(rng.standard_normal((300, count)))
    spread = np.array([0.4, 0.5, 0.7])[:count]
    found, mass = merged(y, p, spread)
    kept = set()
    for i in range(300):
        places, masses = merged_loop(y[i], p[i], spread)
        kept.add(len(masses))
        np.testing.assert_allclose(mass[i, : len(masses)], masses, atol=1e-12)
        assert not mass[i, len(masses) :].any()
        some = (masses > 0).sum()
        np.testing.assert_allclose(found[i, :some], places[:some], atol=1e-9)
        np.testing.assert_array_equal(found[i, some:], np.tile(found[i, 0], (count - some, 1)))
    assert kept == set(range(1, count + 1))
    mean = (y * p[:, :, None]).sum(axis=1)
    np.testing.assert_allclose((found * mass[:, :, None]).sum(axis=1), mean, atol=1e-12)


def test_masses_are_cut_off_and_sum_to_one() -> None:
    raw = np.array([[0.7, 0.3], [1.2, -0.2], [-0.1, -0.2]])
    np.testing.assert_allclose(shares(raw), [[0.7, 0.3], [1, 0], [0.5, 0.5]])


def test_charts_survive_a_checkpoint(tmp_path: Path) -> None:
    frame, _ = cross_fit([tissue(0, mirrored)])
    torch.save(frame.state(), tmp_path / "frame.pt")
    again = FrameRegression.from_state(torch.load(tmp_path / "frame.pt", weights_only=True))
    h = tissue(1, mirrored).h
    placement = regression_alone(frame, h)
    for count in (2, 3):
        for a, b in zip(
            frame.hypotheses(placement, h, count), again.hypotheses(placement, h, count),
            strict=True,
        ):  # fmt: skip
            assert np.array_equal(a, b)


def test_a_frame_without_charts_survives_a_checkpoint_and_gives_no_hypotheses() -> None:
    frame = FrameRegression.from_state(cross_fit([tissue(0, mirrored, 5)])[0].state())
    h = tissue(1, mirrored).h
    with pytest.raises(ValueError, match="num_hypotheses=2, but the checkpoint holds no charts"):
        frame.hypotheses(regression_alone(frame, h), h, 2)


def test_charts_of_another_version_are_refused() -> None:
    frame, _ = cross_fit([tissue(0, mirrored)])
    with pytest.raises(ValueError, match="charts has version 0, expected 1"):
        Charts.from_state(frame.charts[0].state() | {"version": 0})


def test_few_cells_have_no_charts() -> None:
    assert not cross_fit([tissue(0, mirrored, 5)])[0].charts


def test_one_fold_has_no_charts() -> None:
    """No cell has a neighbour that is not left out with it."""
    whole = replace(tissue(0, mirrored, 60), fold=np.zeros(60, dtype=np.int64))
    assert not cross_fit([whole])[0].charts
