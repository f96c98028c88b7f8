"""Superposition against SciPy, restoration of random moves, gradients, degenerate sets."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from common.align import align, aligned_rmsd
from common.rng import generator_for

DOUBLE = torch.float64


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=generator_for(seed))


def random_rotation(dim: int, seed: int, determinant: int = 1) -> torch.Tensor:
    q, _ = torch.linalg.qr(points(dim, dim, seed=seed))
    if torch.linalg.det(q) * determinant < 0:
        q = torch.cat([-q[:, :1], q[:, 1:]], 1)
    return q


@pytest.mark.parametrize("seed", range(5))
def test_weighted_rotation_is_scipys(seed):
    mobile, target = points(12, 3, seed=seed), points(12, 3, seed=100 + seed)
    weights = points(12, seed=200 + seed).abs()
    ours = align(mobile, target, weights)
    share = (weights / weights.sum())[:, None]
    centred = [(x - (share * x).sum(0)).numpy() for x in (target, mobile)]
    reference, rssd = Rotation.align_vectors(*centred, weights=weights.numpy())
    assert torch.allclose(ours.rotation, torch.from_numpy(reference.as_matrix()), atol=1e-10)
    rmsd = rssd / float(weights.sum().sqrt())
    assert float(aligned_rmsd(mobile, target, weights)) == pytest.approx(rmsd, rel=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_with_reflection_is_scipys_orthogonal_procrustes(dim):
    mobile, target = points(9, dim, seed=1), points(9, dim, seed=2)
    centred = [(x - x.mean(0)).numpy() for x in (mobile, target)]
    reference, _ = orthogonal_procrustes(*centred)
    ours = align(mobile, target, reflection=True).rotation
    assert np.allclose(ours.numpy(), reference.T, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_similarity_disparity_is_scipys(dim):
    mobile, target = points(20, dim, seed=3), points(20, dim, seed=4)
    _, _, disparity = procrustes(target.numpy(), mobile.numpy())
    residual = aligned_rmsd(mobile, target, scale=True, reflection=True).square() * 20
    spread = (target - target.mean(0)).square().sum()
    assert float(residual / spread) == pytest.approx(disparity, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("determinant", [1, -1])
def test_restoration(dim, determinant, seed):
    """A moved copy is found exactly; its mirror image only where reflections are allowed."""
    target = points(4, 15, dim, seed=seed)
    turn = random_rotation(dim, 50 + seed, determinant)
    mobile = 2.5 * target @ turn.T + points(dim, seed=60 + seed)
    fitted = align(mobile, target, scale=True, reflection=determinant < 0)
    assert torch.allclose(fitted.apply(mobile), target, atol=1e-10)
    assert torch.allclose(fitted.scale, torch.full((4,), 0.4, dtype=DOUBLE))
    if determinant < 0:
        assert (aligned_rmsd(mobile, target, scale=True) > 0.05).all()
        proper = align(mobile, target, scale=True).rotation
        assert torch.allclose(torch.linalg.det(proper), torch.ones(4, dtype=DOUBLE))


def test_no_other_rotation_fits_better_in_two_dimensions():
    """Brute force over angles, the optimum proved without linear algebra."""
    mobile, target = points(7, 2, seed=5), points(7, 2, seed=6)
    angles = torch.linspace(0, 2 * torch.pi, 2001, dtype=DOUBLE)
    c, s = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    x, y = mobile - mobile.mean(0), target - target.mean(0)
    brute = (x @ turns.mT - y).square().sum(-1).mean(-1).sqrt().min()
    ours = aligned_rmsd(mobile, target)
    assert ours <= brute
    assert float(ours) == pytest.approx(float(brute), abs=1e-5)


def test_masked_points_count_for_nothing_and_may_be_nan():
    mobile, target = points(2, 10, 3, seed=7), points(2, 10, 3, seed=8)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[:, 6:] = False
    expected = align(mobile[:, :6], target[:, :6])
    mobile[:, 6:] = torch.nan
    ours = align(mobile.requires_grad_(), target, mask)
    assert torch.allclose(ours.rotation, expected.rotation)
    assert torch.allclose(ours.translation, expected.translation)
    ours.rotation.sum().backward()
    assert mobile.grad is not None
    assert mobile.grad.isfinite().all()
    assert (mobile.grad[:, 6:] == 0).all()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("reflection", [False, True])
def test_gradients(dim, scale, reflection):
    mobile = points(2, 6, dim, seed=9).requires_grad_()
    target = points(2, 6, dim, seed=10).requires_grad_()
    weights = (points(2, 6, seed=11).abs() + 0.1).requires_grad_()

    def fitted(mobile, target, weights):
        return align(mobile, target, weights, scale=scale, reflection=reflection).apply(mobile)

    assert torch.autograd.gradcheck(fitted, (mobile, target, weights))


def test_gradient_at_equal_singular_values():
    """The corners of a cube: the SVD's own derivative is infinite here, the rotation's is not."""
    corners = torch.tensor(
        [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=DOUBLE
    )
    mobile = corners.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: align(x, corners).rotation, (mobile,))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("case", ["one point", "coincident", "line"])
def test_degenerate_sets_give_a_proper_optimum_and_finite_gradients(dim, case):
    target = points(5, dim, seed=12)
    if case == "one point":
        mobile, target = points(1, dim, seed=13), target[:1]
    elif case == "coincident":
        mobile = (points(1, dim, seed=13) + 100).expand(5, dim).clone()  # the mean rounds
    else:
        mobile = torch.arange(5, dtype=DOUBLE)[:, None] * points(1, dim, seed=14)
    mobile.requires_grad_()
    fitted = align(mobile, target, scale=True)
    assert float(torch.linalg.det(fitted.rotation.detach())) == pytest.approx(1.0)
    if case != "line":
        assert float(fitted.scale.detach()) == 1.0
    (fitted.apply(mobile) - target).square().sum().backward()
    assert mobile.grad is not None
    assert mobile.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "target": a["target"][:4]}, "share one shape"),
        (lambda a: {**a, "target": a["target"].float()}, "share one floating type"),
        (lambda a: {**a, "weights": torch.ones(4)}, "weights must have shape"),
        (lambda a: {**a, "weights": -torch.ones(5)}, "not negative"),
        (lambda a: {**a, "weights": torch.zeros(5)}, "without any point"),
        (lambda a: {**a, "mobile": a["mobile"] * torch.nan}, "mobile holds NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = change({"mobile": points(5, 3), "target": points(5, 3, seed=1)})
    with pytest.raises(ValueError, match=message):
        align(**arguments)


def test_autocast_leaves_superposition_alone() -> None:
    """Half precision has no SVD, and three digits are not enough for it."""
    generator = torch.Generator().manual_seed(0)
    mobile, target = torch.randn(2, 3, 20, 3, generator=generator)
    wanted = align(mobile, target).apply(mobile)
    with torch.autocast("cpu", torch.bfloat16):
        found = align(mobile, target).apply(mobile)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
