"""Rival methods, registration and optimal transport on synthetic tissue with a known map."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from spatial_ipa.evaluation.baselines.regression import (
    BASELINES,
    pca_features,
    predict,
    register_slides,
)
from spatial_ipa.evaluation.baselines.transport import (
    connected_knn_graph,
    transport_layout,
    transport_plan,
)
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import distance_spearman, procrustes_rmse
from spatial_ipa.layout.registration import mutual_nearest_neighbours

GENES = 60


def tissue(num_slides: int = 4, n: int = 110, noise: float = 0.3) -> tuple[list, list]:
    """Slides cut from one map: genes are smooth bumps of position, without any symmetry."""
    rng = np.random.default_rng(0)
    centres, width = rng.uniform(-1, 1, size=(GENES, 2)) * [2.0, 1.0], rng.uniform(0.4, 1.2, GENES)
    expression, positions = [], []
    for _ in range(num_slides):
        xy = rng.uniform(-1, 1, size=(n, 2)) * [2.0, 1.0]
        signal = 2 * np.exp(-(cdist(xy, centres) ** 2) / (2 * width**2))
        expression.append(signal + noise * rng.normal(size=signal.shape))
        positions.append(xy)
    return expression, positions


def turn(xy: np.ndarray, angle: float, mirror: bool) -> np.ndarray:
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return 30.0 * xy @ rotation * ([1.0, -1.0] if mirror else [1.0, 1.0]) + [100.0, 7.0]


@pytest.fixture(scope="module")
def slides() -> tuple[list, list, np.ndarray, np.ndarray]:
    expression, xy = tissue()
    features, test = pca_features(expression[:-1], expression[-1], dim=12)
    return features, xy[:-1], test, xy[-1]


@pytest.fixture(scope="module")
def posed(slides: tuple[list, list, np.ndarray, np.ndarray]) -> list[np.ndarray]:
    poses = [(0.0, False), (2.0, True), (-1.2, False)]
    return [turn(x, *pose) for x, pose in zip(slides[1], poses, strict=True)]


# Spearman correlation of distances that each method must reach; a random layout has 0.
REACHED = {
    "pca2": 0.5,
    "isomap": 0.5,
    "spectral": 0.5,
    "knn": 0.9,
    "ridge": 0.9,
    "svr": 0.9,
    "mlp": 0.8,
    "novosparc": 0.8,
}


def test_every_baseline_is_tested() -> None:
    assert set(REACHED) | {"random"} == set(BASELINES)


@pytest.mark.parametrize("name", REACHED)
def test_a_smooth_map_is_recovered(name: str, slides: tuple) -> None:
    features, xy, test, truth = slides
    layout = predict(name, features, xy, test)
    assert layout.shape == truth.shape
    assert layout.dtype == np.float64
    assert distance_spearman(layout, truth) > REACHED[name]
    assert procrustes_rmse(layout, truth) < 0.8


def test_the_random_baseline_knows_nothing(slides: tuple) -> None:
    features, xy, test, truth = slides
    scores = [distance_spearman(predict("random", features, xy, test, s), truth) for s in range(5)]
    assert abs(np.mean(scores)) < 0.05


@pytest.mark.parametrize("name", BASELINES)
def test_the_seed_fixes_the_result(name: str, slides: tuple) -> None:
    features, xy, test, _ = slides
    first, again = (predict(name, features, xy, test, 7) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", ["random", "mlp"])
def test_another_seed_gives_another_result(name: str, slides: tuple) -> None:
    features, xy, test, _ = slides
    first, other = (predict(name, features, xy, test, s) for s in (0, 1))
    assert not np.allclose(first, other)


@pytest.mark.parametrize("name", ["knn", "ridge", "svr"])
def test_random_pose_needs_registration(name: str, slides: tuple, posed: list) -> None:
    features, xy, test, truth = slides
    in_frame = procrustes_rmse(predict(name, features, xy, test), truth)
    lost = procrustes_rmse(predict(name, features, posed, test), truth)
    restored = procrustes_rmse(predict(name, features, posed, test, register=True), truth)
    assert lost > in_frame + 0.2
    assert restored < in_frame + 0.05


def test_transport_does_not_depend_on_pose_or_unit(slides: tuple, posed: list) -> None:
    features, xy, test, _ = slides
    assert procrustes_rmse(
        transport_layout(features, posed, test), transport_layout(features, xy, test)
    ) == pytest.approx(0.0, abs=1e-6)


def test_registration_recovers_pose_and_keeps_the_first_slide(slides: tuple, posed: list) -> None:
    features, xy, _, _ = slides
    registered = register_slides(features, posed)
    # The first slide was only scaled and shifted, so the common frame is the original one.
    np.testing.assert_allclose(registered[0], gauge_fix_array(xy[0]), atol=1e-12)
    for ours, original in zip(registered[1:], xy[1:], strict=True):
        assert np.sqrt(((ours - gauge_fix_array(original)) ** 2).sum(1).mean()) < 0.1
        assert (ours**2).sum(1).mean() == pytest.approx(1.0)


def test_registration_is_exact_where_a_slide_is_repeated(slides: tuple) -> None:
    features, xy, _, _ = slides
    registered = register_slides([features[0]] * 2, [xy[0], turn(xy[0], 0.9, True)], k=1)
    np.testing.assert_allclose(registered[1], registered[0], atol=1e-10)


def test_mutual_neighbours_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b, k = rng.normal(size=(30, 4)), rng.normal(size=(25, 4)), 3
    d = cdist(a, b)
    expected = {
        (i, j)
        for i in range(30)
        for j in range(25)
        if j in np.argsort(d[i])[:k] and i in np.argsort(d[:, j])[:k]
    }
    assert set(zip(*map(np.ndarray.tolist, mutual_nearest_neighbours(a, b, k)), strict=True)) == (
        expected
    )


def test_pca_features_equal_a_dense_svd() -> None:
    expression, _ = tissue(3)
    features, test = pca_features(expression[:2], expression[2], dim=5)
    centred = [x - x.mean(0) for x in expression]
    _, _, vt = np.linalg.svd(np.concatenate(centred[:2]), full_matrices=False)
    dense = [x @ vt[:5].T for x in centred]
    unit = np.sqrt(np.mean(np.concatenate(dense[:2]) ** 2))
    for ours, theirs in zip([*features, test], dense, strict=True):
        signs = np.sign((ours * theirs).sum(0))
        np.testing.assert_allclose(ours, theirs * signs / unit, atol=1e-2)
    assert np.mean(np.concatenate(features) ** 2) == pytest.approx(1.0)


def test_pca_features_keep_the_genes_that_vary_and_ignore_slide_offsets() -> None:
    expression, _ = tissue(3)
    quiet = [
        1e-3 * np.random.default_rng(i).normal(size=(len(x), 9)) for i, x in enumerate(expression)
    ]
    wide = [
        np.concatenate([q, x + 5.0 * i], 1)
        for i, (q, x) in enumerate(zip(quiet, expression, strict=True))
    ]
    ours, test = pca_features(wide[:2], wide[2], dim=4, num_genes=GENES)
    theirs, other = pca_features(expression[:2], expression[2], dim=4)
    np.testing.assert_allclose(np.abs(ours[0]), np.abs(theirs[0]), atol=1e-6)
    np.testing.assert_allclose(np.abs(test), np.abs(other), atol=1e-6)


def test_test_expression_does_not_shape_the_components() -> None:
    expression, _ = tissue(3)
    before, _ = pca_features(expression[:2], expression[2], dim=4)
    after, _ = pca_features(expression[:2], 100.0 * expression[2][::-1], dim=4)
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_knn_graph_grows_until_it_is_connected() -> None:
    rng = np.random.default_rng(0)
    far = np.concatenate([rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 100.0])
    graph, k = connected_knn_graph(far, 3)
    assert k > 19  # a point has 19 others on its side
    assert (graph != graph.T).nnz == 0
    assert connected_knn_graph(rng.normal(size=(40, 2)), 12)[1] == 12


@pytest.mark.parametrize("alpha_linear", [0.0, 0.5, 1.0])
def test_the_transport_plan_keeps_its_marginals(alpha_linear: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(30, 2))
    plan, _ = transport_plan(
        cdist(x, x), cdist(y, y), cdist(x, y), alpha_linear=alpha_linear, epsilon=0.05
    )
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), 1 / 20, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), 1 / 30, atol=1e-6)


def test_the_linear_transport_plan_equals_a_plain_sinkhorn_iteration() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(15, 2)), rng.normal(size=(12, 2))
    cost = cdist(x, y)
    plan, _ = transport_plan(cdist(x, x), cdist(y, y), cost, alpha_linear=1.0, epsilon=0.1)
    kernel, v = np.exp(-cost / cost.max() / 0.1), np.ones(12)
    for _ in range(2000):
        u = 1 / 15 / (kernel @ v)
        v = 1 / 12 / (kernel.T @ u)
    np.testing.assert_allclose(plan, u[:, None] * kernel * v, atol=1e-7)


def test_missing_transport_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"needs POT: pip install 'edgewise\[baselines\]'"):
        transport_plan(*[np.ones((3, 3))] * 3, alpha_linear=0.5, epsilon=0.1)


def test_bad_input_is_refused(slides: tuple) -> None:
    features, xy, test, _ = slides
    with pytest.raises(ValueError, match="name must be one of random, pca2"):
        predict("best", features, xy, test)
    with pytest.raises(ValueError, match="got 3 and 2"):
        predict("knn", features, xy[:2], test)
    with pytest.raises(ValueError, match="training slide 1: features must be"):
        predict("knn", [features[0], features[1][:, :3], features[2]], xy, test)
    with pytest.raises(ValueError, match=r"same genes, got \[5, 6\]"):
        pca_features([np.zeros((9, 5))], np.zeros((9, 6)))
    with pytest.raises(ValueError, match=r"dim must lie in \[1, 5\], got 6"):
        pca_features([np.zeros((9, 5))], np.zeros((9, 5)), dim=6)
    with pytest.raises(ValueError, match="train has no variance"):
        pca_features([np.ones((9, 5))], np.ones((9, 5)), dim=2)
    with pytest.raises(ValueError, match="slide 0: train_features has 110 rows"):
        register_slides(features, [xy[0][:5], *xy[1:]])
    with pytest.raises(ValueError, match=r"alpha_linear must lie in \[0, 1\], got 2"):
        transport_plan(*[np.ones((3, 3))] * 3, alpha_linear=2.0, epsilon=0.1)
