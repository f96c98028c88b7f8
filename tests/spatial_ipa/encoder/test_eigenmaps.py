"""Kernel eigenmaps against dense NumPy, and what must not change them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist, pdist
from tissue_expression import make_tissue

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.encoder import eigenmaps
from spatial_ipa.encoder.eigenmaps import even_share, fit_eigenmaps, neighbour_eigenmaps
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.settings import StartSettings

SETTINGS = StartSettings("eigenmaps", rank=20, num_neighbours=8, width=0.4, penalty=0.6, smooth=0)
D = 12
Tissue = tuple[list[Expression], list[np.ndarray]]


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    slides = [make_tissue(seed) for seed in (0, 1)]
    return [x for x, _ in slides], [xy for _, xy in slides]


@pytest.fixture(scope="module")
def trunk(tissue: Tissue) -> KernelTrunk:
    return fit_eigenmaps(*tissue, SETTINGS, D)


def rows_of(slide: Expression) -> torch.Tensor:
    return torch.from_numpy(slide.rows(slice(None)))


def test_eigenmaps_of_a_slide_are_those_of_its_centred_kernel() -> None:
    xy = np.random.default_rng(0).random((50, 2))
    distance = cdist(xy, xy)
    scale = np.sort(distance, axis=1)[:, 20]  # itself first; k is 20 up to 133 cells
    kernel = np.exp(-(distance**2) / (scale[:, None] * scale[None]))
    centring = np.eye(50) - 1 / 50
    values, vectors = np.linalg.eigh(centring @ kernel @ centring)
    found = neighbour_eigenmaps(xy, 6)
    np.testing.assert_allclose(np.square(found).sum(axis=0), values[:-7:-1], atol=1e-10)
    expected = vectors[:, -6:] @ np.diag(values[-6:]) @ vectors[:, -6:].T
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-10)
    everything = neighbour_eigenmaps(xy, 64)
    assert everything.shape[1] == (values > 1e-9 * values[-1]).sum()


def test_eigenmaps_refuse_coincident_and_too_few_cells() -> None:
    with pytest.raises(ValueError, match="30 of 30 points coincide with their 20"):
        neighbour_eigenmaps(np.zeros((30, 2)))
    with pytest.raises(ValueError, match="2 cells with counts, at least 3"):
        neighbour_eigenmaps(np.eye(2))


def test_fit_is_the_regression_of_the_module_docstring(tissue: Tissue, trunk: KernelTrunk) -> None:
    """From the linear maps on, all in dense NumPy: kernel, targets, solution, leading vectors."""
    slides, coordinates = tissue
    x = [s.rows(s.filled).astype(np.float64) for s in slides]
    new = make_tissue(7)[0].rows(slice(None)).astype(np.float64)
    kernel = to_new = 0.0
    for w in trunk.maps.numpy().astype(np.float64):
        z = np.concatenate(x) @ w
        width = 2 * 0.4 * np.square(cdist(z, z)).mean()
        kernel = kernel + np.exp(-cdist(z, z, "sqeuclidean") / width) / 2
        to_new = to_new + np.exp(-cdist(new @ w, z, "sqeuclidean") / width) / 2
    blocks = [neighbour_eigenmaps(xy[s.filled]) for s, xy in zip(slides, coordinates, strict=True)]
    target = np.zeros((len(kernel), sum(b.shape[1] for b in blocks)))
    target[: len(blocks[0]), : blocks[0].shape[1]] = blocks[0]
    target[len(blocks[0]) :, blocks[0].shape[1] :] = blocks[1]
    solution = np.linalg.solve(kernel + 0.6 * np.eye(len(kernel)), target)
    leading = np.linalg.svd(kernel @ solution)[2][:D].T
    scale = (kernel @ solution @ leading).var(axis=0).mean() ** -0.5
    expected = to_new @ solution @ leading * scale
    found = trunk(torch.from_numpy(new).float()).numpy()
    sign = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * sign, atol=2e-4)
    np.testing.assert_allclose(trunk.targets.numpy(), target @ leading * sign, atol=2e-4)


def test_pose_and_unit_of_the_slides_do_not_matter(tissue: Tissue, trunk: KernelTrunk) -> None:
    slides, coordinates = tissue
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s], [s, c]])
    moved = [
        30 * coordinates[0] @ turn + [5, -80],
        coordinates[1] @ turn.T @ np.diag([1.0, -1.0]) / 7,
    ]
    x = rows_of(make_tissue(7)[0])
    found = fit_eigenmaps(slides, moved, SETTINGS, D)(x)
    np.testing.assert_allclose(found, trunk(x), atol=1e-3)


def test_order_of_rows_does_not_matter(tissue: Tissue, trunk: KernelTrunk) -> None:
    slides, coordinates = tissue
    order = np.random.default_rng(3).permutation(len(slides[0]))
    shuffled = fit_eigenmaps(
        [slides[0].subset(order), slides[1]], [coordinates[0][order], coordinates[1]], SETTINGS, D
    )
    x = rows_of(make_tissue(7)[0])
    np.testing.assert_allclose(shuffled(x), trunk(x), atol=1e-3)
    at = {int(i): n for n, i in enumerate(trunk.row[trunk.slide == 0])}
    permuted = [at[int(order[i])] for i in shuffled.row[shuffled.slide == 0]]
    own = shuffled.targets[shuffled.slide == 0]
    np.testing.assert_allclose(own, trunk.targets[: len(own)][permuted], atol=1e-3)


def test_gradients_pass_to_the_rows_and_nothing_is_trained(trunk: KernelTrunk) -> None:
    x = rows_of(make_tissue(7)[0])[:3].double().requires_grad_()
    double = deepcopy(trunk).double()
    assert torch.autograd.gradcheck(lambda y: double(y)[:, :2], x, fast_mode=True)
    assert not list(trunk.parameters())


def test_few_landmarks_come_near_the_exact_fit(tissue: Tissue, trunk: KernelTrunk) -> None:
    """By the similarities h h' of new cells; all of them as landmarks: the exact fit itself."""
    x = rows_of(make_tissue(7)[0])
    exact = trunk(x)
    n = len(trunk.targets)
    for share, least in ((0.5, 0.95), (1.0, 1.0 - 1e-6)):
        settings = replace(SETTINGS, max_landmarks=int(share * n))
        few = fit_eigenmaps(*tissue, settings, D)
        assert len(few.coefficients) == int(share * n)
        assert np.ptp(np.bincount(few.slide[few.landmark_rows])) <= 1
        a, b = (pdist(h.numpy()) for h in (few(x), exact))
        assert np.corrcoef(a, b)[0, 1] >= least


def test_rows_of_large_slides_are_drawn(tissue: Tissue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenmaps, "_SLIDE_ROWS", 50)
    monkeypatch.setattr(eigenmaps, "_MAX_ROWS", 80)
    found = fit_eigenmaps(*tissue, SETTINGS, D)
    assert found.slide.bincount().tolist() == [40, 40]
    for number, slide in enumerate(tissue[0]):
        rows = found.row[found.slide == number].numpy()
        assert (np.diff(rows) > 0).all()
        assert slide.filled[rows].all()
    again = fit_eigenmaps(*tissue, SETTINGS, D, seed=0)
    assert torch.equal(found.row, again.row)
    assert not torch.equal(found.row, fit_eigenmaps(*tissue, SETTINGS, D, seed=1).row)


def test_many_slides_have_fewer_eigenmaps_each(
    tissue: Tissue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns that they cannot fill are 0."""
    monkeypatch.setattr(eigenmaps, "_MAX_EIGENMAPS", 7)
    found = fit_eigenmaps(*tissue, SETTINGS, D)
    assert found.targets.any(dim=0).tolist() == [True] * 6 + [False] * 6
    assert not found(rows_of(tissue[0][0]))[:, 6:].any()


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([5, 100, 100], 65, [5, 30, 30]),
        ([5, 100, 20], 1000, [5, 100, 20]),
        ([10, 10, 10], 20, [6, 7, 7]),
        ([3], 2, [2]),
    ],
)
def test_even_share(sizes: list[int], total: int, expected: list[int]) -> None:
    assert even_share(sizes, total) == expected


def test_what_cannot_be_fitted_is_refused(tissue: Tissue) -> None:
    slides, coordinates = tissue
    with pytest.raises(ValueError, match="2 slides and 1 sets of coordinates"):
        fit_eigenmaps(slides, coordinates[:1], SETTINGS)
    for name in ("width", "penalty", "max_landmarks", "ridge", "rank", "num_neighbours"):
        with pytest.raises(ValueError, match=rf"start\.{name} must be positive, got 0"):
            replace(SETTINGS, **{name: 0})
    with pytest.raises(ValueError, match=r"start\.smooth must not be negative, got -1"):
        replace(SETTINGS, smooth=-1)
    with pytest.raises(ValueError, match=r"start\.kind must be one of eigenmaps, spatial, pca"):
        StartSettings("umap")  # type: ignore[arg-type]
    flat = Expression.of_counts(
        sp.csr_matrix(np.ones((60, 30), np.float32)), Normalisation("sqrt"), False
    )
    with pytest.raises(ValueError, match="expression is constant"):
        fit_eigenmaps([flat], [np.random.default_rng(0).random((60, 2))], SETTINGS)
