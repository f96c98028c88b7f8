"""Identifiability against dense formulas, and tissues whose symmetry is known by construction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from spatial_ipa.confidence.identifiability import is_split, slide_identifiability
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.simulation.files import TissueSpec, simulate_tissue
from spatial_ipa.evaluation.report import JudgedSlide, write_identifiability

Field = Callable[[np.ndarray], np.ndarray]


def square(n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2))


def noisy(values: np.ndarray, noise: float = 0.1, seed: int = 1) -> np.ndarray:
    return values + noise * np.random.default_rng(seed).standard_normal(values.shape)


def folded(x: np.ndarray) -> np.ndarray:
    return np.stack([np.abs(x[:, 0]), x[:, 1]], 1)


def point_symmetric(x: np.ndarray) -> np.ndarray:
    return np.stack([x[:, 0] ** 2 - x[:, 1] ** 2, 2 * x[:, 0] * x[:, 1]], 1)


def repeated(x: np.ndarray) -> np.ndarray:
    """Two periods of a unit without symmetry of its own along the first axis."""
    phase = 2 * np.pi * x[:, 0]
    return np.stack([np.cos(phase), np.sin(phase), x[:, 1]], 1)


CASES: dict[str, tuple[Field, set[str]]] = {
    "gradients": (lambda x: x, {"identifiable"}),
    "mirror": (folded, {"mirror-symmetric"}),
    "constant along one axis": (lambda x: x[:, :1], {"mirror-symmetric"}),
    "half-turn": (point_symmetric, {"half-turn symmetric", "undetermined", "repeated units"}),
    "repeated": (repeated, {"repeated units"}),
    "noise": (lambda x: np.zeros_like(x), {"undetermined"}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_known_tissues_get_their_verdict(case: str) -> None:
    field, wanted = CASES[case]
    x = square()
    found = set(slide_identifiability(noisy(field(x)), x).verdict.split(", "))
    if case == "mirror":  # mirror images are two groups far apart, too
        found -= {"repeated units"}
    assert found == wanted


@pytest.mark.parametrize("mirror", [False, True])
def test_simulated_tissue_is_symmetric_only_if_asked_to_be(mirror: bool) -> None:
    spec = TissueSpec(num_slides=1, num_genes=200, num_cells=0, mirror_symmetric=mirror)
    slide = simulate_tissue(spec).slides[0]
    log = normalise(slide.X, logged=False)
    found = slide_identifiability(PCA(10, random_state=0).fit_transform(log), slide.obsm["spatial"])
    if mirror:
        assert "mirror-symmetric" in found.verdict
        assert np.nanmax(found.mirror) > 0.85
        assert found.overall > 0.6
    else:
        assert found.verdict == "identifiable"
        assert np.nanmax(found.mirror) < 0.65
        assert found.overall < 0.5
        assert found.multimodal.mean() < 0.1


def test_the_mirror_axis_is_found() -> None:
    """A rectangle, mirrored across its longest axis: the best axis is that axis, in any pose."""
    x = square() * [2.0, 1.0]
    h = noisy(np.stack([x[:, 0], np.abs(x[:, 1])], 1))
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for pose in (np.eye(2), turn, turn @ np.diag([1.0, -1.0])):
        summary = slide_identifiability(h, 50 * x @ pose.T + [900.0, -3.0]).summary()
        assert float(summary["mirror_axis_degrees"]) in (0.0, 10.0, 170.0)
        assert float(summary["mirror_index"]) > 0.9


def test_numbers_do_not_depend_on_pose_scale_or_order() -> None:
    x = square()
    h = noisy(x, 0.3)
    plain = slide_identifiability(h, x)
    order = np.random.default_rng(3).permutation(len(x))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])
    moved = slide_identifiability(h[order], (7 * x @ turn.T + 4)[order])
    np.testing.assert_allclose(moved.ambiguity, plain.ambiguity[order], rtol=1e-9)
    np.testing.assert_array_equal(moved.multimodal, plain.multimodal[order])
    assert moved.half_turn == pytest.approx(plain.half_turn, rel=1e-6)
    assert np.nanmax(moved.mirror) == pytest.approx(np.nanmax(plain.mirror), abs=0.02)


def test_ambiguity_is_the_ratio_of_rms_distances() -> None:
    x = square(120)
    h = noisy(x, 0.5)
    found = slide_identifiability(h, x, k=7)
    d, apart = cdist(h, h), cdist(x, x)
    np.fill_diagonal(d, np.inf)
    near = np.argsort(d, axis=1)[:, :7]
    pair = np.sqrt((pdist(x) ** 2).mean())
    wanted = np.sqrt((np.take_along_axis(apart, near, 1) ** 2).mean(1)) / pair
    np.testing.assert_allclose(found.ambiguity, wanted, rtol=1e-9)
    assert found.overall == pytest.approx(np.sqrt((wanted**2).mean()))
    inside = np.sort(apart, axis=1)[:, 1:8]
    assert found.floor == pytest.approx(np.sqrt((inside**2).mean()) / pair)


def test_perfect_embeddings_reach_the_floor_and_noise_reaches_one() -> None:
    x = square()
    perfect = slide_identifiability(x, x)
    assert perfect.overall == pytest.approx(perfect.floor, rel=1e-9)
    noise = slide_identifiability(np.random.default_rng(5).standard_normal((300, 6)), x)
    assert noise.overall == pytest.approx(1, abs=0.05)
    assert abs(noise.structure) < 0.1


def test_half_turn_index_against_loops() -> None:
    """The formula pair by pair; gamma in 9 bins of equal width, as the module takes at n = 200."""
    x = square(200)
    x = x - x.mean(0)
    x /= np.sqrt((x**2).sum(1).mean())
    h = noisy(point_symmetric(x), 0.2)
    n, apart = len(x), cdist(x, x)
    bins: list[list[tuple[float, float]]] = [[] for _ in range(9)]
    for i in range(n):
        for j in range(i):
            place = int(apart[i, j] / (apart.max() * (1 + 1e-9)) * 9)
            bins[place].append((apart[i, j], ((h[i] - h[j]) ** 2).sum()))
    distance, gamma = np.array([np.mean(b, axis=0) for b in bins]).T
    nearest_other = np.argsort(apart, axis=1)[:, 1]
    step = np.median(apart[np.arange(n), nearest_other])
    c0 = np.mean([((h[i] - h[j]) ** 2).sum() for i, j in enumerate(nearest_other)])
    c, g = [], []
    for i in range(n):
        away = np.linalg.norm(x + x[i], axis=1)
        moved = 2 * np.linalg.norm(x[i])
        if moved >= 0.5 and away.min() <= step:
            c.append(((h[i] - h[away.argmin()]) ** 2).sum())
            g.append(np.interp(moved, distance, gamma))
    wanted = (np.mean(g) - np.mean(c)) / (np.mean(g) - c0)
    found = slide_identifiability(h, x).half_turn
    assert 0.7 < found < 1.2
    assert found == pytest.approx(wanted, rel=1e-9)


def test_split_agrees_with_two_means() -> None:
    """The best cut along the principal axis is scikit-learn's exhaustive 2-means on it."""
    rng = np.random.default_rng(0)
    sets = rng.standard_normal((40, 20, 2)) * 0.12
    sets[..., 0] += np.where(rng.random((40, 20)) < 0.5, 0.35, -0.35) * rng.uniform(0, 2, (40, 1))
    found, decided = is_split(sets), 0
    for points, split in zip(sets, found, strict=True):
        t = PCA(1).fit_transform(points)
        label = KMeans(2, n_init=20, random_state=0).fit(t).labels_
        sizes = np.bincount(label)
        if sizes.min() < 5:
            continue  # another rule: no group may be smaller than a quarter
        groups = [t[label == g, 0] for g in (0, 1)]
        gap = abs(groups[0].mean() - groups[1].mean())
        pooled = np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / 18)
        assert split == (gap >= 5 * pooled and gap >= 0.5)
        decided += 1
    assert decided > 30
    assert 5 < found.sum() < 35


def test_split_false_alarms_and_power() -> None:
    """The rates stated in the module: 4,000 sets, standard error below 0.4 %."""
    rng = np.random.default_rng(0)
    disc = rng.standard_normal((4000, 20, 2))
    disc *= np.sqrt(2 * rng.random((4000, 20, 1))) / np.linalg.norm(disc, axis=2, keepdims=True)
    band = np.stack([3 * rng.random((4000, 20)), 0.1 * rng.standard_normal((4000, 20))], 2)
    groups = 0.2 * rng.standard_normal((4000, 20, 2))
    groups[..., 1] += np.where(rng.random((4000, 20)) < 0.5, 0.7, -0.7)
    assert is_split(disc).mean() < 0.045
    assert is_split(band).mean() < 0.045
    assert is_split(groups).mean() > 0.95
    assert not is_split(0.1 * groups).any()  # two groups, but side by side
    assert not is_split(np.zeros((3, 20, 2))).any()


@pytest.mark.parametrize(
    ("h", "x", "k", "message"),
    [
        (np.zeros((50, 3)), square(60), 20, r"embedding must be finite and \(60, d\)"),
        (np.full((60, 3), np.nan), square(60), 20, "embedding must be finite"),
        (np.zeros((60, 3)), square(60), 60, r"k must lie in \[4, n - 1\] = \[4, 59\], got 60"),
        (np.zeros((60, 3)), np.ones((60, 2)), 20, "all coordinates of xy coincide"),
        (np.zeros((60, 3)), np.ones((60, 3)), 20, r"xy must have shape \(n, 2\)"),
    ],
)
def test_bad_input(h: np.ndarray, x: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slide_identifiability(h, x, k=k)


@pytest.mark.filterwarnings("error")
def test_constant_embeddings_are_undetermined() -> None:
    found = slide_identifiability(np.ones((60, 3)), square(60))
    assert found.structure == 0
    assert (found.mirror == 0).all()


def test_report_files(tmp_path: Path) -> None:
    x = square()
    slides = [
        JudgedSlide("a/one", "validation", noisy(x), x),
        JudgedSlide("two", "held out", noisy(folded(x)), x),
    ]
    radii = {"two": {"coverage": 0.91, "median_error_abstained": float("nan")}}
    text = write_identifiability(slides, radii, tmp_path)
    names = {"identifiability.json", "identifiability.md"} | {
        f"identifiability_{name}.png" for name in ("a_one", "two")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "identifiability.md").read_text() == text
    content = json.loads((tmp_path / "identifiability.json").read_text())
    assert content["slides"]["a/one"]["verdict"] == "identifiable"
    assert "mirror-symmetric" in content["slides"]["two"]["verdict"]
    assert content["radii"]["two"] == {"coverage": 0.91, "median_error_abstained": None}
    assert "| two | 0.91 | nan |" in text
    assert "No error radii" in write_identifiability(slides, {}, tmp_path)
