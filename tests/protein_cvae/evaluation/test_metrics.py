"""Ensemble metrics against NumPy loops, MDTraj, SciPy and closed forms."""

import math

import mdtraj
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr

from common.rng import generator_for
from protein_cvae.evaluation import metrics
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone

DOUBLE = torch.float64


def ensemble(models: int, length: int = 20, seed: int = 0, noise: float = 1.0) -> torch.Tensor:
    """(M, L, 3) copies of one random walk with noise, each turned and moved."""
    generator = generator_for(seed)
    walk = torch.randn(length, 3, generator=generator_for(99), dtype=DOUBLE).cumsum(0) * 2
    x = walk + noise * torch.randn(models, length, 3, generator=generator, dtype=DOUBLE)
    turn, _ = torch.linalg.qr(torch.randn(models, 3, 3, generator=generator, dtype=DOUBLE))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    return x @ turn.mT + 10 * torch.randn(models, 1, 3, generator=generator, dtype=DOUBLE)


def trajectory(x: torch.Tensor) -> mdtraj.Trajectory:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(x.shape[1]):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain))
    return mdtraj.Trajectory(x.numpy() / 10, topology)


@pytest.mark.parametrize("masked", [False, True])
def test_pairwise_rmsd_is_mdtrajs(masked):
    first, second = ensemble(7, seed=1), ensemble(4, seed=2)
    mask = torch.arange(20) % 3 != 0 if masked else None
    ours = metrics.pairwise_rmsd(first, second, mask)
    atoms = None if mask is None else np.flatnonzero(mask.numpy())
    a, b = trajectory(first), trajectory(second)
    theirs = np.stack([10 * mdtraj.rmsd(a, b, k, atom_indices=atoms) for k in range(4)], 1)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-4)  # MDTraj computes in float32


def test_pairwise_rmsd_in_blocks_and_of_a_mirror_image(monkeypatch):
    first, second = ensemble(7, seed=1), ensemble(5, seed=2)
    whole = metrics.pairwise_rmsd(first, second)
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 2 * second.numel())
    assert torch.equal(metrics.pairwise_rmsd(first, second), whole)
    mirror = first * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    assert float(metrics.pairwise_rmsd(first, mirror).amin()) > 1.0


def test_spread_is_the_mean_over_pairs():
    x = ensemble(6, seed=3)
    pairs = [
        float(metrics.pairwise_rmsd(x[i : i + 1], x[j : j + 1]))
        for i in range(6)
        for j in range(i + 1, 6)
    ]
    assert metrics.spread(x) == pytest.approx(np.mean(pairs), rel=1e-6)
    with pytest.raises(ValueError, match="two models"):
        metrics.spread(x[:1])


def test_rmsf_is_mdtrajs_about_its_own_mean():
    """MDTraj's RMSF after superposition on our mean, which iterations must have converged."""
    x = ensemble(12, seed=4, noise=0.7)
    moved, mean = metrics.superpose_on_mean(x)
    frames = trajectory(moved).superpose(trajectory(mean[None]))
    around = np.sqrt(((frames.xyz * 10 - mean.numpy()) ** 2).sum(-1).mean(0))
    np.testing.assert_allclose(metrics.rmsf(x).numpy(), around, atol=1e-4)
    mask = torch.arange(20) < 15
    assert torch.allclose(metrics.rmsf(x, mask), metrics.rmsf(x[:, :15]))


def test_correlation_is_scipys():
    a = torch.randn(30, generator=generator_for(0))
    b = a + torch.randn(30, generator=generator_for(1))
    assert metrics.correlation(a, b) == pytest.approx(pearsonr(a.numpy(), b.numpy())[0], abs=1e-6)


def test_order_parameter():
    angles = torch.tensor([[0.0, 0.0, 3.0, 1.0], [0.0, math.pi, -3.0, 2.0]], dtype=DOUBLE)
    defined = torch.tensor([[True, True, True, True], [True, True, True, False]])
    expected = [1.0, 0.0, abs(math.cos(3.0)), 1.0]
    assert metrics.order_parameter(angles, defined).tolist() == pytest.approx(expected, abs=1e-9)
    nowhere = torch.zeros_like(defined)
    assert metrics.order_parameter(angles, nowhere).tolist() == [0.0] * 4


def test_core_is_the_part_with_fixed_torsions():
    """A chain whose torsions are random in residues 10-14; its core misses them and the ends."""
    generator = generator_for(5)
    phi = torch.full((30, 24), math.radians(-60), dtype=DOUBLE)
    psi = torch.full((30, 24), math.radians(-45), dtype=DOUBLE)
    for angle in (phi, psi):
        turn = 2 * math.pi * torch.rand(30, 5, generator=generator, dtype=DOUBLE)
        angle[:, 10:15] = turn
    bonded = torch.ones(24, dtype=torch.bool)
    bonded[-1] = False
    flat = torch.full_like(phi, math.pi)
    x = build_backbone(Torsions(phi, psi, flat), bonded.expand(30, 24))
    mask = torch.ones(30, 24, dtype=torch.bool)
    mask[3, 20] = False  # missing in one model: neither it nor its neighbours count
    core = metrics.core_mask(x, bonded, mask)
    out = {0, *range(10, 15), 19, 20, 21, 23}
    assert core.tolist() == [i not in out for i in range(24)]


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
    matrix = metrics.pairwise_rmsd(generated, real).numpy()
    assert scores.min_rmsd == pytest.approx(matrix.min(0).mean())
    assert scores.precision == pytest.approx(matrix.min(1).mean())
    assert scores.coverage == pytest.approx((matrix.min(0) < 2.5).mean())


def test_active_units():
    generator = generator_for(9)
    means = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 0.05, 0.3]) + 4.0
    assert metrics.active_units(means).tolist() == [True, False, True]
    local = means.reshape(10, 20, 3)
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[:, :10] = True
    spoiled = local.masked_fill(~mask[..., None], 100.0)
    assert metrics.active_units(spoiled, mask).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="two entries"):
        metrics.active_units(means[:1])


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


def test_bad_input_is_named():
    x = ensemble(3)
    with pytest.raises(ValueError, match="three residues"):
        metrics.pairwise_rmsd(x, x, torch.arange(20) < 2)
    with pytest.raises(ValueError, match="as many residues"):
        metrics.pairwise_rmsd(x, x[:, :10])
    with pytest.raises(ValueError, match="first must be"):
        metrics.pairwise_rmsd(x[0], x)
    with pytest.raises(ValueError, match="mask must be"):
        metrics.rmsf(x, torch.ones(20))
