"""Baselines: moments of draws, elastic network against a double loop, constraints behind them."""

import math

import numpy as np
import pytest
import torch

from common.align import align, aligned_rmsd
from common.rng import generator_for
from protein_cvae.evaluation import baselines
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.projection import inside_tolerance, project
from protein_cvae.geometry.superposition import mean_rmsd, superpose_on_mean

DOUBLE = torch.float64
LENGTH = 30


@pytest.fixture
def training() -> torch.Tensor:
    """(8, L, 3, 3) helices with a hinge in the middle and a little torsion noise, all valid."""
    generator = generator_for(3)
    phi = torch.full((8, LENGTH), math.radians(-62), dtype=DOUBLE)
    psi = torch.full((8, LENGTH), math.radians(-42), dtype=DOUBLE)
    psi[:, 15] += torch.linspace(-0.6, 0.6, 8, dtype=DOUBLE)
    phi = phi + 0.03 * torch.randn(phi.shape, generator=generator, dtype=DOUBLE)
    omega = torch.full_like(phi, math.pi)
    return build_backbone(Torsions(phi, psi, omega), bonded().expand(8, LENGTH))


def bonded() -> torch.Tensor:
    flags = torch.ones(LENGTH, dtype=torch.bool)
    flags[-1] = False
    return flags


def everywhere() -> torch.Tensor:
    return torch.ones(LENGTH, dtype=DOUBLE)


def test_pca_draws_have_the_training_mean_and_covariance(training):
    draws = baselines.pca_sampling(training, everywhere(), 20000, generator_for(0)).flatten(1)
    moved, mean = superpose_on_mean(training.flatten(1, 2))
    assert torch.allclose(draws.mean(0), mean.flatten(), atol=0.05)
    expected = np.cov(moved.flatten(1).numpy().T)
    got = np.cov(draws.numpy().T)
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_pca_reconstruction_is_a_projection(training):
    rebuilt = baselines.pca_reconstruction(training, everywhere(), training)
    assert float(aligned_rmsd(rebuilt.flatten(1, 2), training.flatten(1, 2)).max()) < 1e-4
    generator = generator_for(1)
    other = training[:2] + 0.5 * torch.randn(training[:2].shape, generator=generator, dtype=DOUBLE)
    rebuilt = baselines.pca_reconstruction(training, everywhere(), other)
    # at least as near as the mean is, after superposition on the mean
    _, mean = superpose_on_mean(training.flatten(1, 2))
    target = mean.expand(2, -1, 3)
    onto = align(other.flatten(1, 2), target).apply(other.flatten(1, 2))
    assert ((onto - rebuilt.flatten(1, 2)).norm() < (onto - target).norm()).all()


def test_network_modes_against_a_double_loop(training):
    """NumPy: the Hessian of ½ Σ (|r_ij| − d_ij)² block by block, and its eigenvalues."""
    ca = training[0, :, CA].numpy()
    hessian = np.zeros((3 * LENGTH, 3 * LENGTH))
    for i in range(LENGTH):
        for j in range(LENGTH):
            gap = ca[i] - ca[j]
            square = gap @ gap
            if i != j and square < 15.0**2:
                block = np.outer(gap, gap) / square
                hessian[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] -= block
                hessian[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] += block
    values = np.linalg.eigvalsh(hessian)
    variance, modes = baselines.network_modes(training[0, :, CA])
    assert len(variance) == 3 * LENGTH - 6
    np.testing.assert_allclose(1 / variance.numpy(), values[6:], rtol=1e-8)
    turned = modes.numpy().T @ hessian @ modes.numpy()
    np.testing.assert_allclose(turned, np.diag(values[6:]), atol=1e-8)
    # a rigid turn is no mode
    turn = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).expand(LENGTH, 3),
                              training[0, :, CA])  # fmt: skip
    assert float((modes.mT @ turn.flatten()).abs().max()) < 1e-8


def test_network_samples_have_the_training_spread_and_move_residues_whole(training):
    drawn = baselines.network_sampling(training, everywhere(), 40, generator_for(2))
    ca = training[:, :, CA]
    assert mean_rmsd(drawn[:, :, CA]) == pytest.approx(mean_rmsd(ca), rel=1e-3)
    within = drawn - drawn[:, :, CA : CA + 1]
    assert torch.allclose(within, within[:1].expand_as(within), atol=1e-9)
    core = everywhere()
    core[LENGTH // 2 :] = 0
    part = baselines.network_sampling(training, core, 40, generator_for(2))[:, :, CA]
    assert mean_rmsd(part, core > 0) == pytest.approx(mean_rmsd(ca, core > 0), rel=1e-3)
    assert mean_rmsd(part) != pytest.approx(mean_rmsd(ca), rel=1e-2)


def test_network_reconstruction_follows_its_modes(training):
    start = training[0]
    variance, modes = baselines.network_modes(start[:, CA])
    move = (0.3 * modes[:, :3].sum(1)).unflatten(0, (LENGTH, 3))
    target = (start + move[:, None])[None]
    rebuilt = baselines.network_reconstruction(start, everywhere(), target)
    before = float(aligned_rmsd(target[:, :, CA], start[None, :, CA]))
    after = float(aligned_rmsd(target[:, :, CA], rebuilt[:, :, CA]))
    assert after < 0.05 * before
    assert len(variance) > 20


def test_noise_has_the_training_fluctuations(training):
    drawn = baselines.noise_sampling(training, everywhere(), 4000, generator_for(4))
    moved, mean = superpose_on_mean(training.flatten(1, 2))
    expected = (moved - mean).square().unflatten(1, (-1, 3)).mean((0, 2, 3)).sqrt()
    got = drawn.std(0).square().mean((1, 2)).sqrt()
    assert torch.allclose(got, expected, rtol=0.05)


@pytest.mark.parametrize("name", ["pca", "network", "noise"])
def test_constraints_make_draws_valid(training, name):
    def fix(x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        return project(x, bonded().expand(mask.shape), mask)

    plain = baselines.BASELINES[name]
    raw = plain(training, everywhere(), 5, generator_for(5))
    fixed = baselines.constrained(plain, fix)(training, everywhere(), 5, generator_for(5))
    mask = torch.ones(5, LENGTH, dtype=torch.bool)
    assert not inside_tolerance(raw, bonded().expand(5, LENGTH), mask).all()
    assert inside_tolerance(fixed, bonded().expand(5, LENGTH), mask).all()
    assert torch.equal(fixed, fix(raw))


@pytest.mark.parametrize("name", sorted(baselines.BASELINES))
def test_draws_depend_on_the_generator_only(training, name):
    baseline = baselines.BASELINES[name]
    first, again = (baseline(training, everywhere(), 4, generator_for(6)) for _ in range(2))
    other = baseline(training, everywhere(), 4, generator_for(7))
    assert first.shape == (4, LENGTH, 3, 3)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "training")


def test_bad_input_is_named(training):
    with pytest.raises(ValueError, match="M >= 2 models"):
        baselines.pca_sampling(training[:1], everywhere(), 2, generator_for(0))
    with pytest.raises(ValueError, match=r"ca must be \(L, 3\)"):
        baselines.network_modes(training[0])
