"""Torsions against Biopython and MDTraj, masks, and gradients at degenerate entries."""

import math

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB import vectors
from torch import Tensor

from protein_cvae.geometry.dihedrals import backbone_dihedrals, dihedral, peptide_mask


def random_chain(length: int, seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    """Atoms of a random walk, (..., L, 3, 3) float64."""
    rng = torch.Generator().manual_seed(seed)
    steps = torch.randn(*batch, 3 * length, 3, generator=rng, dtype=torch.float64)
    return steps.cumsum(-2).unflatten(-2, (length, 3))


def masks(length: int) -> tuple[Tensor, Tensor]:
    """All present, one chain: (bonded, mask)."""
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[-1] = False
    return bonded, torch.ones(length, dtype=torch.bool)


def test_dihedral_against_biopython():
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(50, 4, 3, generator=rng, dtype=torch.float64)
    ours = dihedral(*points.unbind(1))
    theirs = [vectors.calc_dihedral(*(vectors.Vector(*p) for p in four.numpy())) for four in points]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-7)


def test_sign_is_iupac():
    """Seen along b₂, a clockwise turn of the far bond is positive."""
    near, p1, p2 = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    # Looking along +z with +y up, +x is to the LEFT, so clockwise is towards −x.
    far = torch.tensor([-1.0, 0.0, 1.0]).double()
    assert dihedral(near, p1, p2, far).item() == pytest.approx(math.pi / 2)


def test_backbone_against_mdtraj():
    length = 12
    coordinates = random_chain(length, 1, (4,))
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(length):
        residue = topology.add_residue("ALA", chain)
        for name in ("N", "CA", "C"):
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
    trajectory = mdtraj.Trajectory(coordinates.flatten(-3, -2).numpy() / 10, topology)
    bonded, mask = (value.expand(4, -1) for value in masks(length))
    angles, defined = backbone_dihedrals(coordinates, bonded, mask)
    for name, compute in (
        ("phi", mdtraj.compute_phi),
        ("psi", mdtraj.compute_psi),
        ("omega", mdtraj.compute_omega),
    ):
        theirs = torch.as_tensor(compute(trajectory)[1], dtype=torch.float64)
        ours = getattr(angles, name)[getattr(defined, name)].view(4, length - 1)
        # MDTraj works in float32.
        assert (1 - torch.cos(ours - theirs)).max() < 1e-6, name


def test_where_angles_are_defined():
    bonded = torch.tensor([True, True, False, True, True, False])
    mask = torch.tensor([True, True, True, True, False, False])
    assert peptide_mask(bonded, mask).tolist() == [True, True, False, False, False, False]
    angles, defined = backbone_dihedrals(random_chain(6, 2), bonded, mask)
    assert defined.phi.tolist() == [False, True, True, False, False, False]
    assert defined.psi.tolist() == [True, True, False, False, False, False]
    assert defined.omega.tolist() == defined.psi.tolist()
    for value, where in zip(angles, defined, strict=True):
        assert (value[~where] == 0).all()
        assert (value[where] != 0).all()


def test_mirror_changes_sign_and_rotation_does_not():
    coordinates = random_chain(9, 3)
    bonded, mask = masks(9)
    angles, _ = backbone_dihedrals(coordinates, bonded, mask)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)).double())[
        0
    ]
    turn = turn * torch.linalg.det(turn)
    moved, _ = backbone_dihedrals(coordinates @ turn.mT + 5, bonded, mask)
    mirrored, _ = backbone_dihedrals(coordinates * torch.tensor([1.0, 1.0, -1.0]), bonded, mask)
    for plain, turned, other in zip(angles, moved, mirrored, strict=True):
        torch.testing.assert_close(plain, turned, atol=1e-9, rtol=0)
        torch.testing.assert_close(plain, -other, atol=1e-9, rtol=0)


def test_gradcheck():
    coordinates = random_chain(4, 5).requires_grad_()
    bonded, mask = masks(4)
    assert torch.autograd.gradcheck(
        lambda x: tuple(backbone_dihedrals(x, bonded, mask)[0]), coordinates
    )


@pytest.mark.parametrize("spoil", [0.0, float("nan"), float("inf")])
def test_gradient_at_masked_and_degenerate_entries(spoil):
    """A missing residue of any content and a residue of coincident or straight atoms: no NaN."""
    coordinates = random_chain(8, 6)
    coordinates[2] = spoil
    coordinates[5, 1] = coordinates[5, 0]
    coordinates[7] = torch.arange(3.0)[:, None] * torch.ones(3)
    coordinates.requires_grad_()
    bonded, mask = masks(8)
    mask[2] = False
    angles, _ = backbone_dihedrals(coordinates, bonded, mask)
    sum(angle.sin().sum() for angle in angles).backward()
    assert coordinates.grad is not None
    assert coordinates.grad.isfinite().all()
    assert (coordinates.grad[2] == 0).all()
    assert (coordinates.grad[3] != 0).any()


def test_padding_and_batch_neighbours():
    coordinates = random_chain(7, 7, (2,))
    bonded, mask = masks(5)
    alone = backbone_dihedrals(coordinates[0, :5], bonded, mask)[0]
    bonded, mask = (
        torch.nn.functional.pad(value, (0, 2)).expand(2, -1) for value in (bonded, mask)
    )
    padded = backbone_dihedrals(coordinates, bonded, mask)[0]
    # Not bit by bit: an angle computed in a vector register and one computed in the scalar tail
    # of the loop may differ in the last bit, and the length decides which is which.
    for short, long in zip(alone, padded, strict=True):
        torch.testing.assert_close(short, long[0, :5], rtol=0, atol=1e-13)


def test_errors():
    bonded, mask = masks(3)
    with pytest.raises(ValueError, match=r"coordinates must have shape .* got \(3, 4, 3\)"):
        backbone_dihedrals(torch.zeros(3, 4, 3), bonded, mask)
    with pytest.raises(ValueError, match=r"bonded must be bool of shape \(3,\), got torch.int64"):
        backbone_dihedrals(torch.zeros(3, 3, 3), bonded.long(), mask)
    with pytest.raises(ValueError, match="floating point"):
        backbone_dihedrals(torch.zeros(3, 3, 3, dtype=torch.int64), bonded, mask)
