"""Ensemble metrics against NumPy loops, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr

from common.rng import generator_for
from protein_cvae.evaluation import metrics
from protein_cvae.geometry.superposition import pairwise_rmsd

DOUBLE = torch.float64


def ensemble(models: int, length: int = 20, seed: int = 0, noise: float = 1.0) -> torch.Tensor:
    """(M, L, 3) copies of one random walk with noise, each turned and moved."""
    generator = generator_for(seed)
    walk = torch.randn(length, 3, generator=generator_for(99), dtype=DOUBLE).cumsum(0) * 2
    x = walk + noise * torch.randn(models, length, 3, generator=generator, dtype=DOUBLE)
    turn, _ = torch.linalg.qr(torch.randn(models, 3, 3, generator=generator, dtype=DOUBLE))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    return x @ turn.mT + 10 * torch.randn(models, 1, 3, generator=generator, dtype=DOUBLE)


def test_correlation_is_scipys():
    a = torch.randn(30, generator=generator_for(0))
    b = a + torch.randn(30, generator=generator_for(1))
    assert metrics.correlation(a, b) == pytest.approx(pearsonr(a.numpy(), b.numpy())[0], abs=1e-6)


def brute_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Equal sizes by repeating points: an optimal coupling is then a permutation."""
    size = math.lcm(len(a), len(b))
    a, b = np.repeat(a, size // len(a), 0), np.repeat(b, size // len(b), 0)
    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


@pytest.mark.parametrize("sizes", [(8, 8), (12, 8), (5, 7), (1, 6)])
def test_wasserstein_is_the_best_assignment(sizes):
    generator = np.random.default_rng(sum(sizes))
    a, b = generator.normal(size=(sizes[0], 2)), generator.normal(1.0, 2.0, size=(sizes[1], 2))
    assert metrics.wasserstein(a, b) == pytest.approx(brute_wasserstein(a, b), rel=1e-6)
    assert metrics.wasserstein(b, a) == pytest.approx(metrics.wasserstein(a, b), rel=1e-6)
    assert metrics.wasserstein(a, a[::-1].copy()) == pytest.approx(0.0, abs=1e-6)


def test_pca_wasserstein_of_a_shift_along_the_first_component():
    """Every model moved by δ along the main axis of the real ones: W₂ = |δ| / √L."""
    generator = generator_for(6)
    base = torch.randn(15, 3, generator=generator, dtype=DOUBLE).cumsum(0) * 3
    # An axis free of rigid motion, so that superposition does not take the shift away.
    bend = torch.randn(15, 3, generator=generator, dtype=DOUBLE)
    rigid = [torch.eye(3, dtype=DOUBLE)[i].expand(15, 3) for i in range(3)]
    centred = base - base.mean(0)
    rigid += [
        torch.linalg.cross(torch.eye(3, dtype=DOUBLE)[i].expand(15, 3), centred) for i in range(3)
    ]
    span, _ = torch.linalg.qr(torch.stack([r.flatten() for r in rigid], 1))
    axis = bend.flatten() - span @ (span.mT @ bend.flatten())
    axis = (axis / axis.norm()).unflatten(0, (15, 3))
    amount = torch.linspace(-0.2, 0.2, 9, dtype=DOUBLE)
    real = base + amount[:, None, None] * axis
    generated = base + (amount[:, None, None] + 0.05) * axis
    ours = metrics.pca_wasserstein(generated, real, components=1)
    assert ours == pytest.approx(0.05 / math.sqrt(15), rel=2e-3)


def test_compare_of_an_ensemble_with_itself_and_in_any_pose():
    real, generated = ensemble(8, seed=7), ensemble(11, seed=8)
    same = metrics.compare(real, real)
    assert same.min_rmsd == pytest.approx(0.0, abs=1e-6)
    assert same.precision == pytest.approx(0.0, abs=1e-6)
    assert same.coverage == 1.0
    assert same.spread_ratio == pytest.approx(1.0)
    assert same.rmsf_correlation == pytest.approx(1.0)
    assert same.wasserstein == pytest.approx(0.0, abs=1e-6)
    scores = metrics.compare(generated, real, threshold=2.5)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    moved = metrics.compare(generated @ turn.mT + 5.0, real, threshold=2.5)
    for name in scores.__dataclass_fields__:
        assert getattr(scores, name) == pytest.approx(getattr(moved, name), abs=1e-6), name
    matrix = pairwise_rmsd(generated, real).numpy()
    assert scores.min_rmsd == pytest.approx(matrix.min(0).mean())
    assert scores.precision == pytest.approx(matrix.min(1).mean())
    assert scores.coverage == pytest.approx((matrix.min(0) < 2.5).mean())


def test_active_units():
    def active(rows: torch.Tensor) -> list[bool]:
        rows = rows.double()
        return metrics.active_dimensions(len(rows), rows.sum(0), rows.square().sum(0)).tolist()

    generator = generator_for(9)
    means = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 0.05, 0.3]) + 4.0
    assert active(means) == [True, False, True]
    local = means.reshape(10, 20, 3)
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[:, :10] = True
    spoiled = local.masked_fill(~mask[..., None], 100.0)
    assert active(spoiled[mask]) == [True, False, True]
    with pytest.raises(ValueError, match="two entries"):
        active(means[:1])


def test_sequence_recovery_and_its_baseline():
    truth = torch.tensor([0, 0, 0, 5, 7, 20, 9])
    predicted = torch.tensor([0, 0, 1, 5, 0, 20, 9])
    mask = torch.tensor([True] * 6 + [False])
    found = metrics.sequence_recovery(predicted, truth, mask)
    assert found.recovery == pytest.approx(3 / 5)
    assert found.commonest == pytest.approx(3 / 5)
    trained = metrics.sequence_recovery(predicted, truth, mask, torch.tensor([5, 5, 0, 20, 20, 20]))
    assert trained.commonest == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="no known residue"):
        metrics.sequence_recovery(predicted, truth, torch.zeros(7, dtype=torch.bool))
