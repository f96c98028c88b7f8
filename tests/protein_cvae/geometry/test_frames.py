"""Frames, rotations and placed atoms: equivariance, handedness, references, safe gradients."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.PDB import PDBParser
from scipy.spatial.transform import Rotation
from torch import Tensor

from protein_cvae.geometry import constants, frames
from protein_cvae.geometry.dihedrals import dihedral


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn_of(seed: int) -> Tensor:
    return torch.as_tensor(Rotation.random(random_state=seed).as_matrix())


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    u, v = a - b, c - b
    return torch.acos((u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1)))


def test_frames_are_rotations_and_turn_with_the_structure():
    coordinates, turn, shift = draw(2, 7, 3, 3), turn_of(1), draw(3, seed=2)
    rotation, origin = frames.residue_frames(coordinates)
    identity = torch.eye(3, dtype=torch.float64).expand(2, 7, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2, 7).double())
    moved, moved_origin = frames.residue_frames(coordinates @ turn.mT + shift)
    torch.testing.assert_close(moved, turn @ rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(moved_origin, origin @ turn.mT + shift, atol=1e-9, rtol=0)


def test_local_coordinates_are_invariant_and_handed():
    coordinates, turn = draw(5, 3, 3), turn_of(3)
    points = draw(5, 4, 3, seed=4)
    local = frames.to_local(points, *frames.residue_frames(coordinates))
    moved = frames.to_local(points @ turn.mT - 3, *frames.residue_frames(coordinates @ turn.mT - 3))
    torch.testing.assert_close(local, moved, atol=1e-9, rtol=0)
    mirror = torch.tensor([-1.0, 1.0, 1.0]).double()
    other = frames.to_local(points * mirror, *frames.residue_frames(coordinates * mirror))
    torch.testing.assert_close(local * torch.tensor([1.0, 1.0, -1.0]).double(), other)
    back = frames.to_global(local, *frames.residue_frames(coordinates))
    torch.testing.assert_close(back, points)


def test_atoms_from_frames_is_ideal_and_inverts():
    rotation = torch.as_tensor(Rotation.random(6, random_state=5).as_matrix())
    origin = draw(6, 3)
    atoms = frames.atoms_from_frames(rotation, origin)
    n, ca, c = atoms.unbind(-2)
    torch.testing.assert_close((n - ca).norm(dim=-1), torch.full((6,), 1.458).double())
    torch.testing.assert_close((c - ca).norm(dim=-1), torch.full((6,), 1.525).double())
    torch.testing.assert_close(angle(n, ca, c), torch.full((6,), math.radians(110.8)).double())
    back, back_origin = frames.residue_frames(atoms)
    torch.testing.assert_close(back, rotation)
    torch.testing.assert_close(back_origin, origin)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.0999, 0.1001, 1.0, 3.1, 7.0])
def test_axis_angle_against_scipy(size):
    vector = torch.nn.functional.normalize(draw(8, 3, seed=6), dim=-1) * size
    expected = Rotation.from_rotvec(vector.numpy()).as_matrix()
    np.testing.assert_allclose(frames.rotation_from_axis_angle(vector), expected, atol=1e-13)


def test_six_numbers_recover_a_rotation():
    rotation = torch.as_tensor(Rotation.random(4, random_state=8).as_matrix())
    numbers = torch.cat([rotation[..., 0], rotation[..., 1]], dim=-1)
    torch.testing.assert_close(frames.rotation_from_6d(numbers), rotation)


@pytest.mark.parametrize(
    ("build", "width"),
    [
        (frames.rotation_from_axis_angle, 3),
        (frames.rotation_from_6d, 6),
    ],
)
def test_rotations_gradcheck_and_are_safe_at_zero(build, width):
    assert torch.autograd.gradcheck(build, draw(3, width, seed=9).requires_grad_())
    zero = torch.zeros(2, width, dtype=torch.float64, requires_grad=True)
    rotation = build(zero)
    torch.testing.assert_close(rotation, torch.eye(3).double().expand(2, 3, 3))
    (rotation * draw(3, 3)).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_axis_angle_derivative_at_zero_is_the_generator():
    """Not merely finite: an update head that starts at 0 must be able to leave it."""
    assert torch.autograd.gradcheck(
        frames.rotation_from_axis_angle, torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    )


def test_masked_and_degenerate_residues():
    coordinates = draw(4, 3, 3)
    coordinates[1] = float("nan")
    coordinates[2] = 0
    coordinates.requires_grad_()
    mask = torch.tensor([True, False, True, True])
    rotation, origin = frames.residue_frames(coordinates, mask)
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.equal(rotation[1], identity)
    assert torch.equal(rotation[2], identity)
    bonded = torch.tensor([True, True, True, False])
    oxygen = frames.carbonyl_oxygen(coordinates, bonded, mask)
    cb = frames.virtual_cb(coordinates, mask)
    total = (rotation * draw(3, 3)).sum() + origin.sum() + oxygen.square().sum() + cb.sum()
    total.backward()
    assert coordinates.grad is not None
    assert coordinates.grad.isfinite().all()
    assert (coordinates.grad[1] == 0).all()
    assert (coordinates.grad[3] != 0).any()


def test_virtual_cb_is_l():
    """CORN rule: seen from Hα, CO, R and N run clockwise; so (N−CA)·((C−CA)×(CB−CA)) > 0."""
    atoms = frames.atoms_from_frames(turn_of(1)[None], draw(1, 3))
    n, ca, c = atoms.unbind(-2)
    cb = frames.virtual_cb(atoms)
    assert ((n - ca) * torch.linalg.cross(c - ca, cb - ca)).sum(-1).item() > 2
    assert (cb - ca).norm().item() == pytest.approx(constants.CA_CB)
    assert angle(n, ca, cb).item() == pytest.approx(constants.N_CA_CB)
    assert angle(c, ca, cb).item() == pytest.approx(constants.C_CA_CB)


def test_oxygen_is_planar_and_has_a_documented_end():
    atoms = draw(2, 3, 3, seed=11)
    bonded, mask = torch.tensor([True, False]), torch.tensor([True, True])
    oxygen = frames.carbonyl_oxygen(atoms, bonded, mask)
    n, ca, c = atoms.unbind(-2)
    assert (oxygen - c).norm(dim=-1).tolist() == pytest.approx([constants.C_O] * 2)
    assert angle(ca, c, oxygen).tolist() == pytest.approx([constants.CA_C_O] * 2)
    assert abs(dihedral(n[1], ca[0], c[0], oxygen[0]).item()) > math.radians(179.9)
    assert dihedral(n[1], ca[1], c[1], oxygen[1]).item() == pytest.approx(math.radians(-45))


def test_placed_atoms_against_a_real_model(ubiquitin: dict[str, Tensor]):
    """Cβ and O of the deposited model 1D3Z, its first 71 residues (the end is disordered)."""
    atoms = torch.stack([ubiquitin[name] for name in ("N", "CA", "C")], dim=-2)
    present = torch.ones(len(atoms), dtype=torch.bool)
    bonded = present.clone()
    bonded[-1] = False
    cb = (frames.virtual_cb(atoms) - ubiquitin["CB"]).norm(dim=-1)
    oxygen = (frames.carbonyl_oxygen(atoms, bonded, present) - ubiquitin["O"]).norm(dim=-1)
    assert cb[ubiquitin["has_cb"].bool()].max() < 0.25
    assert oxygen[:-1].max() < 0.25


@pytest.fixture
def ubiquitin() -> dict[str, Tensor]:
    root = Path(os.environ.get("EDGEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))
    file = root / "ensembles" / "nmr" / "1d3z.pdb.gz"
    if not file.exists():
        pytest.skip(f"no {file}")
    with gzip.open(file, "rt") as handle:
        chain = next(iter(PDBParser(QUIET=True).get_structure("x", handle)[0]))
    residues = [residue for residue in chain if residue.id[0] == " "][:71]
    found = {
        name: [r[name].coord if name in r else r["CA"].coord for r in residues]
        for name in ("N", "CA", "C", "O", "CB")
    }
    atoms = {name: torch.as_tensor(np.array(value)).double() for name, value in found.items()}
    atoms["has_cb"] = torch.tensor(["CB" in residue for residue in residues])
    return atoms
