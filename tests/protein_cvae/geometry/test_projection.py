"""Projection: tolerance from noisy chains, nearness, symmetry, idempotence, batches, gradients."""

import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from protein_cvae.geometry import constants
from protein_cvae.geometry.constraint_rows import (
    RESTRAINTS,
    coarse_rows,
    distance_bands,
    fine_rows,
)
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.internal import bond_geometry
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.projection import (
    ProjectionOptions,
    inside_tolerance,
    nearer_cis,
    project,
)


def chains(count: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ideal chains of helical and extended residues in turn: coordinates, bonded, mask."""
    rng = torch.Generator().manual_seed(seed)
    helical = torch.rand(count, length, generator=rng) < 0.5
    phi = torch.where(helical, -1.1, -2.1).double()
    psi = torch.where(helical, -0.75, 2.3).double()
    mask = torch.ones(count, length, dtype=torch.bool)
    bonded = mask.clone()
    bonded[:, -1] = False
    return build_backbone(Torsions(phi, psi, torch.full_like(phi, math.pi)), bonded), bonded, mask


def noisy(coordinates: Tensor, sigma: float, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(coordinates.shape, generator=rng, dtype=coordinates.dtype)
    return coordinates + sigma * noise


def deviations(x: Tensor, bonded: Tensor, mask: Tensor) -> Tensor:
    """(N,) |value − ideal| / sd of all bonds, angles and ω, by the measuring functions."""
    values, defined = bond_geometry(x, bonded, mask)
    found = [
        ((value - restraint.ideal) / restraint.deviation)[where].abs()
        for value, restraint, where in zip(values, RESTRAINTS, defined, strict=False)
    ]
    angles, where = backbone_dihedrals(x, bonded, mask)
    tilt = math.pi - angles.omega[where.omega].abs()
    return torch.cat([*found, tilt / constants.OMEGA_TRANS.deviation])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0])
def test_everything_inside_tolerance_at_once(sigma, dtype):
    ideal, bonded, mask = chains(20, 60)
    x = project(noisy(ideal, sigma).to(dtype), bonded, mask)
    assert x.dtype == dtype
    assert deviations(x, bonded, mask).max() < constants.TOLERANCE
    assert inside_tolerance(x, bonded, mask).all()


def test_cis_peptides_stay_cis():
    ideal, bonded, mask = chains(4, 40)
    angles, defined = backbone_dihedrals(ideal, bonded, mask)
    cis = torch.zeros_like(mask)
    cis[:, [7, 20]] = True
    built = build_backbone(
        Torsions(angles.phi, angles.psi, torch.where(cis, 0.0, math.pi).double()), bonded
    )
    x = project(noisy(built, 0.3), bonded, mask, cis)
    omega = backbone_dihedrals(x, bonded, mask)[0].omega
    assert torch.equal(nearer_cis(omega) & defined.omega, cis)
    assert inside_tolerance(x, bonded, mask, cis).all()
    assert not inside_tolerance(x, bonded, mask)[:, 7].any()


def test_is_close_to_the_nearest_backbone():
    """Against SLSQP on the exact problem (three residues, zero slack): within 2 % of its move."""
    ideal, bonded, mask = chains(1, 3, seed=5)
    start = noisy(ideal, 0.2)
    options = ProjectionOptions(slack=0.0, fine=60, pull=50, fine_solves=40)
    ours = project(start, bonded, mask, options=options)
    cis = torch.zeros_like(mask)

    def violations(flat: object) -> Tensor:
        x = torch.as_tensor(flat, dtype=torch.float64).view(1, 3, 3, 3)
        values, defined = bond_geometry(x, bonded, mask)
        angles, where = backbone_dihedrals(x, bonded, mask)
        found = [
            (value - restraint.ideal)[one]
            for value, restraint, one in zip(values, RESTRAINTS, defined, strict=False)
        ]
        # sin ω = 0 with ω near 180°.
        return torch.cat([*found, angles.omega[where.omega].sin()])

    best = minimize(
        lambda flat: float(((torch.as_tensor(flat) - start.flatten()) ** 2).sum()),
        start.flatten().numpy(),
        method="SLSQP",
        constraints={"type": "eq", "fun": lambda flat: violations(flat).numpy()},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert best.success
    assert not cis.any()
    moved = (ours - start).square().sum().sqrt().item()
    assert moved < 1.02 * math.sqrt(best.fun)


def test_moves_little_and_keeps_the_centroid():
    ideal, bonded, mask = chains(10, 50)
    start = noisy(ideal, 0.3)
    x = project(start, bonded, mask, options=ProjectionOptions(max_step=10.0))
    moved = (x - start).square().sum(-1).mean().sqrt()
    assert moved < 0.3 * math.sqrt(3)  # no further than the noise that was added
    torch.testing.assert_close(x.mean((1, 2)), start.mean((1, 2)), atol=1e-9, rtol=0)


def test_second_projection_changes_nothing():
    ideal, bonded, mask = chains(5, 50)
    assert torch.equal(project(ideal, bonded, mask), ideal)
    once = project(noisy(ideal, 0.3), bonded, mask, options=ProjectionOptions(fine=20))
    twice = project(once, bonded, mask)
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mirror", [1.0, -1.0], ids=["rotation", "reflection"])
def test_equivariance(mirror):
    ideal, bonded, mask = chains(3, 30)
    start = noisy(ideal, 0.3)
    turn = mirror * torch.as_tensor(Rotation.random(random_state=0).as_matrix())
    shift = torch.tensor([3.0, -8.0, 5.0]).double()
    moved = project(start @ turn.mT + shift, bonded, mask)
    expected = project(start, bonded, mask) @ turn.mT + shift
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=0)


def test_chains_do_not_touch_each_other():
    """A break cuts all rows: exactly solved, each part is projected as if alone."""
    ideal, bonded, mask = chains(1, 40)
    start = noisy(ideal, 0.3)
    bonded[:, 15] = False
    options = ProjectionOptions(rounds=1, fine_solves=100, coarse_solves=100)
    whole = project(start, bonded, mask, options=options)
    for part in (slice(0, 16), slice(16, 40)):
        alone = project(start[:, part], bonded[:, part], mask[:, part], options=options)
        torch.testing.assert_close(whole[:, part], alone, atol=1e-6, rtol=0)


def test_padding_and_batch_neighbours():
    ideal, bonded, mask = chains(3, 30)
    start = noisy(ideal, 1.0)
    together = project(start, bonded, mask)
    alone = torch.cat([project(start[i : i + 1], bonded[:1], mask[:1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)
    padded = torch.nn.functional.pad(start, (0, 0, 0, 0, 0, 7), value=math.nan)
    bonded, mask = (torch.nn.functional.pad(value, (0, 7)) for value in (bonded, mask))
    long = project(padded, bonded, mask)
    torch.testing.assert_close(long[:, :30], together, atol=1e-9, rtol=0)
    assert (long[:, 30:] == 0).all()


def test_leading_dimensions():
    ideal, bonded, mask = chains(6, 12)
    start = noisy(ideal, 0.2)
    flat = project(start, bonded, mask)
    deep = project(
        start.unflatten(0, (2, 3)), bonded.unflatten(0, (2, 3)), mask.unflatten(0, (2, 3))
    )
    torch.testing.assert_close(deep.flatten(0, 1), flat)
    single = project(start[0], bonded[0], mask[0])
    torch.testing.assert_close(single, flat[0], atol=1e-9, rtol=0)


def test_gradcheck():
    ideal, bonded, mask = chains(1, 4)
    start = noisy(ideal, 0.3).requires_grad_()
    options = ProjectionOptions(
        coarse=2, fine=2, fine_solves=3, coarse_solves=2, rounds=1, gradient="unrolled"
    )
    assert torch.autograd.gradcheck(lambda x: project(x, bonded, mask, options=options), start)


def test_tangent_gradient_is_the_projected_one():
    """It is orthogonal to bond stretching, never longer, and near the exact derivative."""
    ideal, bonded, mask = chains(3, 20)
    start = noisy(ideal, 0.05).requires_grad_()
    pull = noisy(torch.zeros_like(ideal), 1.0, seed=7)
    found = {}
    for gradient in ("tangent", "unrolled"):
        options = ProjectionOptions(slack=0.0, fine=12, pull=6, gradient=gradient)
        x = project(start, bonded, mask, options=options)
        (found[gradient],) = torch.autograd.grad((x * pull).sum(), start)
    tangent, exact = found["tangent"], found["unrolled"]
    assert tangent.norm() < pull.norm()
    assert torch.nn.functional.cosine_similarity(tangent.flatten(), exact.flatten(), dim=0) > 0.98
    bond = x.detach()[..., 1, :] - x.detach()[..., 0, :]
    stretch = ((tangent[..., 1, :] - tangent[..., 0, :]) * bond).sum(-1)
    assert stretch.abs().max() < 1e-2 * pull.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_finite_at_missing_and_degenerate_residues(dtype):
    """Also where nothing is left to correct, where all atoms coincide and where they line up."""
    ideal, bonded, mask = chains(4, 12)
    start = noisy(ideal, 0.2).to(dtype)
    start[0, 4] = math.nan
    mask[0, 4] = False
    start[1] = ideal[1].to(dtype)
    start[2] = 0
    start[3] = torch.arange(36, dtype=dtype).view(12, 3, 1) * torch.ones(3, dtype=dtype)
    start.requires_grad_()
    x = project(start, bonded, mask)
    assert x.isfinite().all()
    (x * torch.linspace(0, 1, x.numel(), dtype=dtype).view(x.shape)).sum().backward()
    assert start.grad is not None
    assert start.grad.isfinite().all()
    assert (start.grad[0, 4] == 0).all()
    assert (start.grad[0, 7] != 0).any()


@pytest.mark.parametrize("make_rows", [fine_rows, coarse_rows])
@pytest.mark.parametrize("is_cis", [False, True])
def test_derivatives_against_autograd(make_rows, is_cis):
    rng = torch.Generator().manual_seed(3)
    unit = torch.randn(5, 3, generator=rng, dtype=torch.float64) * 2
    cis = torch.tensor(is_cis)
    _, rows = make_rows(unit, cis, 0.0)
    expected = torch.autograd.functional.jacobian(lambda x: make_rows(x, cis, 0.0)[0], unit)
    torch.testing.assert_close(rows, expected, atol=1e-7, rtol=1e-6)


def test_coarse_bands_hold_all_that_the_fine_ones_accept():
    """Random units inside the fine bands have no coarse violation."""
    rng = torch.Generator().manual_seed(4)
    low, high = (torch.tensor(side[0]).double() for side in distance_bands(1.0))
    shape = (2000, 2)
    spread = [
        restraint.ideal
        + restraint.deviation * (2 * torch.rand(shape, generator=rng, dtype=torch.float64) - 1)
        for restraint in RESTRAINTS
    ]
    phi = torch.rand(shape, generator=rng, dtype=torch.float64) * 6
    bonded = torch.tensor([True, False]).expand(shape)
    bonds = type(bond_geometry(torch.zeros(1, 3, 3), bonded[0, :1], bonded[0, :1])[0])(*spread[:6])
    x = build_backbone(Torsions(phi, phi, spread[6]), bonded, bonds=bonds)
    unit = torch.cat([x[:, 0], x[:, 1, :2]], dim=-2)
    violation, _ = coarse_rows(unit, torch.zeros(2000, dtype=torch.bool), 1.0)
    # N–CA is free to differ between the two residues, so its own band still applies.
    assert violation.abs().max() < 1e-9
    assert (low < high).all()


def test_errors():
    ideal, bonded, mask = chains(1, 5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        project(ideal * math.nan, bonded, mask)
    with pytest.raises(ValueError, match=r"cis must be bool of shape \(1, 5\)"):
        project(ideal, bonded, mask, cis=mask.float())
    with pytest.raises(ValueError, match="slack must be in"):
        ProjectionOptions(slack=4.0)
    with pytest.raises(ValueError, match="rounds"):
        ProjectionOptions(rounds=0)
