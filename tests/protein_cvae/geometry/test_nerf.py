"""Chain building against a sequential textbook NeRF, round trips, breaks, padding, gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.frames import residue_frames
from protein_cvae.geometry.internal import bond_geometry
from protein_cvae.geometry.nerf import build_backbone, ideal_bonds


def torsions_of(*shape: int, seed: int = 0) -> Torsions:
    rng = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, *shape, generator=rng, dtype=torch.float64)
    return Torsions(*((draw * 2 - 1) * math.pi))


def chain(length: int) -> Tensor:
    return torch.arange(length) < length - 1


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, r: float, theta: float, chi: float):
    """Textbook NeRF: the atom at distance r of c, angle theta at c, torsion chi about b-c."""
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    axes = np.stack([bc, np.cross(normal, bc), normal], axis=1)
    local = [-math.cos(theta), math.sin(theta) * math.cos(chi), math.sin(theta) * math.sin(chi)]
    return c + r * axes @ np.array(local)


def test_against_sequential_nerf():
    length = 37
    phi, psi, omega = (value.numpy() for value in torsions_of(length))
    rng = np.random.default_rng(1)
    bonds = ideal_bonds(torch.zeros(length, dtype=torch.float64))
    bonds = type(bonds)(*(v + 0.1 * torch.as_tensor(rng.normal(size=length)) for v in bonds))
    built = build_backbone(
        Torsions(*map(torch.as_tensor, (phi, psi, omega))), chain(length), bonds=bonds
    )
    n_ca, ca_c, c_n, n_ca_c, ca_c_n, c_n_ca = (v.numpy() for v in bonds)
    atoms = [*built[0].numpy()]
    for i in range(1, length):
        atoms.append(place(*atoms[-3:], c_n[i - 1], ca_c_n[i - 1], psi[i - 1]))
        atoms.append(place(*atoms[-3:], n_ca[i], c_n_ca[i - 1], omega[i - 1]))
        atoms.append(place(*atoms[-3:], ca_c[i], n_ca_c[i], phi[i]))
    np.testing.assert_allclose(built.reshape(-1, 3), np.stack(atoms), atol=1e-10)


def test_round_trip_to_torsions():
    torsions = torsions_of(3, 50)
    bonded, mask = chain(50).expand(3, -1), torch.ones(3, 50, dtype=torch.bool)
    built = build_backbone(torsions, bonded, mask)
    angles, defined = backbone_dihedrals(built, bonded, mask)
    for ours, given, where in zip(angles, torsions, defined, strict=True):
        assert torch.cos(ours - given)[where].min() > 1 - 1e-12
    values, defined_bonds = bond_geometry(built, bonded, mask)
    for value, ideal, where in zip(values, ideal_bonds(mask.double()), defined_bonds, strict=True):
        torch.testing.assert_close(value[where], ideal[where])


def test_round_trip_to_coordinates():
    """Any chain is rebuilt from its own lengths, angles, torsions and first frames."""
    rng = torch.Generator().manual_seed(2)
    atoms = torch.randn(2, 90, 3, generator=rng, dtype=torch.float64).cumsum(-2)
    coordinates = atoms.unflatten(-2, (30, 3))
    bonded, mask = chain(30).expand(2, -1).clone(), torch.ones(2, 30, dtype=torch.bool)
    bonded[0, 11] = False
    mask[1, 20] = False
    angles, _ = backbone_dihedrals(coordinates, bonded, mask)
    bonds, _ = bond_geometry(coordinates, bonded, mask)
    built = build_backbone(
        angles, bonded, mask, bonds=bonds, start=residue_frames(coordinates, mask)
    )
    torch.testing.assert_close(built[mask], coordinates[mask], atol=1e-9, rtol=0)
    assert (built[1, 20] == 0).all()


def test_chains_start_anew_and_padding_does_not_matter():
    torsions = torsions_of(40, seed=3)
    bonded = chain(40).clone()
    bonded[16] = False
    whole = build_backbone(torsions, bonded)
    for part in (slice(0, 17), slice(17, 40)):
        alone = build_backbone(Torsions(*(value[part] for value in torsions)), bonded[part])
        torch.testing.assert_close(whole[part], alone, atol=1e-10, rtol=0)
    padded = [torch.nn.functional.pad(value, (0, 9), value=math.nan) for value in torsions]
    mask = torch.arange(49) < 40
    built = build_backbone(Torsions(*padded), torch.nn.functional.pad(bonded, (0, 9)), mask)
    torch.testing.assert_close(built[:40], whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_gradcheck_and_short_chains(length):
    torsions = [value.requires_grad_() for value in torsions_of(length, seed=4)]
    assert torch.autograd.gradcheck(
        lambda *given: build_backbone(Torsions(*given), chain(length)), torsions
    )


def test_gradients_are_finite_beside_missing_values():
    phi = torch.tensor([math.nan, -1.0, math.nan, -1.0], requires_grad=True)
    psi = torch.tensor([0.5, 0.5, math.nan, math.inf], requires_grad=True)
    omega = torch.full((4,), math.pi)
    mask = torch.tensor([True, True, False, True])
    built = build_backbone(Torsions(phi, psi, omega), torch.tensor([True, True, True, False]), mask)
    assert built.isfinite().all()
    built.square().sum().backward()
    assert phi.grad is not None
    assert psi.grad is not None
    assert phi.grad.isfinite().all()
    assert psi.grad.isfinite().all()
    assert psi.grad[0] != 0


def test_float32_stays_precise_over_a_thousand_residues():
    exact = torsions_of(1000, seed=5)
    single = build_backbone(Torsions(*(value.float() for value in exact)), chain(1000))
    double = build_backbone(exact, chain(1000))
    assert single.dtype == torch.float32
    values, _ = bond_geometry(single, chain(1000), torch.ones(1000, dtype=torch.bool))
    assert (values.c_n[:-1] - 1.329).abs().max() < 1e-3
    assert (single - double).norm(dim=-1).max() < 0.05


def test_helix_is_right_handed_with_the_known_rise():
    """φ −57°, ψ −47° (Arnott): about 1.5 Å and 100° a residue."""
    length = 30
    one = torch.ones(length, dtype=torch.float64)
    helix = Torsions(one * math.radians(-57), one * math.radians(-47), one * math.pi)
    ca = build_backbone(helix, chain(length))[:, 1]
    a, b, c, d = ca[0:-3], ca[1:-2], ca[2:-1], ca[3:]
    volume = ((b - a) * torch.linalg.cross(c - b, d - c)).sum(-1)
    assert (volume > 0).all()
    assert ((ca[18:] - ca[:-18]).norm(dim=-1) / 18 - 1.5).abs().max() < 0.08


def test_error_names_the_input():
    phi, psi, omega = torsions_of(5)
    with pytest.raises(ValueError, match=r"psi.*\(4,\)"):
        build_backbone(Torsions(phi, psi[:4], omega), chain(5))
