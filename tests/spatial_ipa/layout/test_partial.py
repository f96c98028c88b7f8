"""Slides that hold different parts of a tissue: where they come to lie."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from spatial_ipa.data.simulation.tissue import TissueSpec, simulate_tissue
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.layout.partial import slide_poses
from spatial_ipa.layout.registration import slide_rotations

Slides = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]


@lru_cache
def tissue(seed: int) -> Slides:
    """Features, positions in the slide's own frame and in the anatomy, of three slides."""
    simulated = simulate_tissue(TissueSpec(num_slides=3, num_cells=0, seed=seed))
    counts = [np.asarray(s.X.todense(), dtype=float) for s in simulated.slides]
    logs = [np.log1p(1e3 * x / x.sum(axis=1, keepdims=True)) for x in counts]
    components = PCA(16, random_state=0).fit(np.concatenate(logs))
    rng = np.random.default_rng(seed)
    order = [rng.permutation(len(x)) for x in logs]
    return (
        [components.transform(x)[rows] for x, rows in zip(logs, order, strict=True)],
        [s.obsm["spatial"][rows] for s, rows in zip(simulated.slides, order, strict=True)],
        [x[rows].astype(float) for x, rows in zip(simulated.anatomy, order, strict=True)],
    )


def halves(seed: int) -> Slides:
    """Left and right halves of the anatomy in turn."""
    features, xy, anatomy = tissue(seed)
    kept = [(x[:, 0] <= np.median(x[:, 0])) == (i % 2 == 0) for i, x in enumerate(anatomy)]
    return (
        [f[k] for f, k in zip(features, kept, strict=True)],
        [x[k] for x, k in zip(xy, kept, strict=True)],
        [x[k] for x, k in zip(anatomy, kept, strict=True)],
    )


def one_unit(xy: list[np.ndarray], anatomy: list[np.ndarray]) -> list[np.ndarray]:
    """Slides, which are stored in units of their own, in that of the anatomy."""
    radii = [x.std(axis=0).max() for x in (*xy, *anatomy)]
    return [x * b / a for x, a, b in zip(xy, radii, radii[len(xy) :], strict=False)]


def union(features: list[np.ndarray], xy: list[np.ndarray]) -> np.ndarray:
    poses = slide_poses(features, xy)
    return np.concatenate([p.apply(gauge_fix_array(x)) for p, x in zip(poses, xy, strict=True)])


def by_rotations_alone(features: list[np.ndarray], xy: list[np.ndarray]) -> np.ndarray:
    rotations = slide_rotations(features, xy)
    return np.concatenate([gauge_fix_array(x) @ r for x, r in zip(xy, rotations, strict=True)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halves_come_to_lie_beside_each_other(seed: int) -> None:
    features, xy, anatomy = halves(seed)
    true = np.concatenate(anatomy)
    assert procrustes_rmse(union(features, xy), true) < 0.2
    assert procrustes_rmse(by_rotations_alone(features, xy), true) > 0.5  # on each other


def test_a_half_finds_its_place_on_a_whole_slide() -> None:
    whole, half = tissue(0), halves(0)
    features, xy, anatomy = ([w[0], h[1]] for w, h in zip(whole, half, strict=True))
    assert procrustes_rmse(union(features, xy), np.concatenate(anatomy)) < 0.2


def test_whole_slides_keep_their_centres() -> None:
    features, xy, _ = tissue(0)
    np.testing.assert_array_equal(union(features, xy), by_rotations_alone(features, xy))


def test_slides_without_spatial_structure_keep_their_centres() -> None:
    _, xy, _ = tissue(0)
    features = [np.random.default_rng(i).standard_normal((len(x), 16)) for i, x in enumerate(xy)]
    np.testing.assert_array_equal(union(features, xy), by_rotations_alone(features, xy))


def test_neither_pose_nor_unit_nor_rotation_of_features_matters() -> None:
    features, xy, _ = halves(0)
    expected = union(features, xy)
    assert abs(expected.mean(axis=0)).max() < 1e-12
    assert (expected**2).sum(axis=1).mean() == pytest.approx(1)
    turn = ortho_group.rvs(16, random_state=1)
    posed = [
        factor * x.astype(float) @ ortho_group.rvs(2, random_state=i) + 50 * i
        for i, (x, factor) in enumerate(zip(xy, (30.0, 30.0, 3000.0), strict=True))
    ]
    found = union([f @ turn for f in features], posed)
    assert procrustes_rmse(found, expected) < 0.05


def test_a_whole_slide_is_placed_by_halves() -> None:
    """By the regression on the first two slides' halves, on the third, which is whole."""
    whole, (features, xy, _) = tissue(1), halves(1)
    slides = [
        EmbeddedSlide(f"s{i}", f.astype(np.float32), x)
        for i, (f, x) in enumerate(zip(features[:2], xy[:2], strict=True))
    ]
    frame = cross_fit(slides)[0]
    layout = frame.averaged(whole[0][2].astype(np.float32))
    assert procrustes_rmse(layout, whole[2][2]) < 0.35
