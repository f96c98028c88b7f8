"""Superposition of ensembles against MDTraj and NumPy loops."""

import math

import mdtraj
import numpy as np
import pytest
import torch

from common.rng import generator_for
from protein_cvae.geometry import superposition
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
    ours = superposition.pairwise_rmsd(first, second, mask)
    atoms = None if mask is None else np.flatnonzero(mask.numpy())
    a, b = trajectory(first), trajectory(second)
    theirs = np.stack([10 * mdtraj.rmsd(a, b, k, atom_indices=atoms) for k in range(4)], 1)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-4)  # MDTraj computes in float32


def test_pairwise_rmsd_in_blocks_and_of_a_mirror_image(monkeypatch):
    first, second = ensemble(7, seed=1), ensemble(5, seed=2)
    whole = superposition.pairwise_rmsd(first, second)
    monkeypatch.setattr(superposition, "_BLOCK_NUMBERS", 2 * second.numel())
    assert torch.equal(superposition.pairwise_rmsd(first, second), whole)
    mirror = first * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    assert float(superposition.pairwise_rmsd(first, mirror).amin()) > 1.0


def test_mean_rmsd_is_the_mean_over_pairs():
    x = ensemble(6, seed=3)
    pairs = [
        float(superposition.pairwise_rmsd(x[i : i + 1], x[j : j + 1]))
        for i in range(6)
        for j in range(i + 1, 6)
    ]
    assert superposition.mean_rmsd(x) == pytest.approx(np.mean(pairs), rel=1e-6)
    with pytest.raises(ValueError, match="two models"):
        superposition.mean_rmsd(x[:1])


def test_rmsf_is_mdtrajs_about_its_own_mean():
    """MDTraj's RMSF after superposition on our mean, which iterations must have converged."""
    x = ensemble(12, seed=4, noise=0.7)
    moved, mean = superposition.superpose_on_mean(x)
    frames = trajectory(moved).superpose(trajectory(mean[None]))
    around = np.sqrt(((frames.xyz * 10 - mean.numpy()) ** 2).sum(-1).mean(0))
    np.testing.assert_allclose(superposition.rmsf(x).numpy(), around, atol=1e-4)
    mask = torch.arange(20) < 15
    assert torch.allclose(superposition.rmsf(x, mask), superposition.rmsf(x[:, :15]))


def test_order_parameter():
    angles = torch.tensor([[0.0, 0.0, 3.0, 1.0], [0.0, math.pi, -3.0, 2.0]], dtype=DOUBLE)
    defined = torch.tensor([[True, True, True, True], [True, True, True, False]])
    expected = [1.0, 0.0, abs(math.cos(3.0)), 1.0]
    assert superposition.order_parameter(angles, defined).tolist() == pytest.approx(
        expected, abs=1e-9
    )
    nowhere = torch.zeros_like(defined)
    assert superposition.order_parameter(angles, nowhere).tolist() == [0.0] * 4


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
    core = superposition.core_mask(x, bonded, mask)
    out = {0, *range(10, 15), 19, 20, 21, 23}
    assert core.tolist() == [i not in out for i in range(24)]


def test_bad_input_is_named():
    x = ensemble(3)
    with pytest.raises(ValueError, match="three residues"):
        superposition.pairwise_rmsd(x, x, torch.arange(20) < 2)
    with pytest.raises(ValueError, match="as many residues"):
        superposition.pairwise_rmsd(x, x[:, :10])
    with pytest.raises(ValueError, match="first must be"):
        superposition.pairwise_rmsd(x[0], x)
    with pytest.raises(ValueError, match="mask must be"):
        superposition.rmsf(x, torch.ones(20))
