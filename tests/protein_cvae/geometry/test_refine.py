"""The output layer: outliers and clashes go, geometry holds, little moves, symmetry, batches."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.projection import inside_tolerance, project
from protein_cvae.geometry.ramachandran import ramachandran_class, ramachandran_outlier
from protein_cvae.geometry.refine import FinishOptions, finish
from protein_cvae.geometry.validity import CLASH_DISTANCE


def chains(count: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy chains of runs of helix and strand: coordinates (float64), bonded, mask, aatype."""
    rng = torch.Generator().manual_seed(seed)
    aatype = torch.randint(0, 20, (count, length), generator=rng)
    helical = (torch.arange(length) // 8) % 2 == 0
    phi = torch.where(helical, -1.1, -2.0).double().expand(count, -1)
    psi = torch.where(helical, -0.75, 2.3).double().expand(count, -1)
    mask = torch.ones(count, length, dtype=torch.bool)
    bonded = mask.clone()
    bonded[:, -1] = False
    x = build_backbone(Torsions(phi, psi, torch.full_like(phi, math.pi)), bonded)
    x = x + 0.3 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    return x, bonded, mask, aatype


def outliers(x: Tensor, bonded: Tensor, mask: Tensor, aatype: Tensor) -> float:
    angles, defined = backbone_dihedrals(x, bonded, mask)
    kind = ramachandran_class(aatype, angles.omega, bonded)
    both = defined.phi & defined.psi
    return ramachandran_outlier(angles.phi, angles.psi, kind)[both].double().mean().item()


def test_outliers_go_and_geometry_holds():
    x, bonded, mask, aatype = chains(10, 50)
    plain = project(x, bonded, mask)
    done = finish(x, bonded, mask, aatype)
    assert outliers(plain, bonded, mask, aatype) > 0.1
    assert outliers(done, bonded, mask, aatype) < 0.02
    assert inside_tolerance(done, bonded, mask).all()
    moved = [(y - x)[..., CA, :].square().sum(-1).mean().sqrt().item() for y in (plain, done)]
    assert moved[1] < moved[0] + 0.05


def test_clashing_strands_part():
    """Two chains that run through each other no longer clash by the definition of the checks."""
    x, bonded, mask, aatype = chains(1, 20, seed=3)
    other = x + torch.tensor([1.5, 0.5, 0.0])
    x, bonded, mask, aatype = (
        torch.cat([first, second], dim=1)
        for first, second in ((x, other), (bonded, bonded), (mask, mask), (aatype, aatype))
    )
    done = finish(x, bonded, mask, aatype, options=FinishOptions(steps=60))
    between = torch.cdist(done[0, :20, CA], done[0, 20:, CA])
    assert torch.cdist(x[0, :20, CA], x[0, 20:, CA]).min() < 2
    assert between.min() > CLASH_DISTANCE
    assert inside_tolerance(done, bonded, mask).all()


def test_a_good_conformer_is_left_alone():
    """A chain without outlier or clash only goes through the projection, which leaves it."""
    length = 30
    one = torch.ones(1, length, dtype=torch.float64)
    mask = torch.ones(1, length, dtype=torch.bool)
    bonded = mask.clone()
    bonded[:, -1] = False
    x = build_backbone(Torsions(-1.1 * one, -0.75 * one, math.pi * one), bonded)
    done = finish(x, bonded, mask, torch.zeros(1, length, dtype=torch.int64))
    assert torch.equal(done, x)


def test_without_steps_it_is_the_projection():
    x, bonded, mask, aatype = chains(2, 20)
    done = finish(x, bonded, mask, aatype, options=FinishOptions(steps=0))
    plain = project(project(x, bonded, mask), bonded, mask)
    assert torch.equal(done, plain)


def test_energy_may_be_replaced():
    """An energy with its one minimum at φ = −1.6, ψ = −1.2 takes a helix to below the ceiling."""
    x, bonded, mask, aatype = chains(2, 8)

    def well(phi: Tensor, psi: Tensor, kind: Tensor) -> Tensor:
        assert kind.shape == phi.shape
        return 20 * (2 - torch.cos(phi + 1.6) - torch.cos(psi + 1.2))

    def share_below(y: Tensor) -> float:
        angles, defined = backbone_dihedrals(y, bonded, mask)
        both = defined.phi & defined.psi
        return (well(angles.phi, angles.psi, aatype)[both] < 9).double().mean().item()

    done = finish(x, bonded, mask, aatype, energy=well)
    assert share_below(project(x, bonded, mask)) < 0.8
    assert share_below(done) == 1


def test_equivariance():
    x, bonded, mask, aatype = chains(2, 25)
    turn = torch.as_tensor(Rotation.random(random_state=1).as_matrix())
    shift = torch.tensor([4.0, -2.0, 9.0]).double()
    moved = finish(x @ turn.mT + shift, bonded, mask, aatype)
    expected = finish(x, bonded, mask, aatype) @ turn.mT + shift
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=0)


def test_padding_batch_neighbours_and_leading_dimensions():
    x, bonded, mask, aatype = chains(4, 25)
    together = finish(x, bonded, mask, aatype)
    alone = finish(x[2], bonded[2], mask[2], aatype[2])
    torch.testing.assert_close(together[2], alone, atol=1e-9, rtol=0)
    pad = torch.nn.functional.pad
    padded = finish(
        pad(x, (0, 0, 0, 0, 0, 5), value=math.nan),
        pad(bonded, (0, 5)),
        pad(mask, (0, 5)),
        pad(aatype, (0, 5), value=20),
    )
    torch.testing.assert_close(padded[:, :25], together, atol=1e-9, rtol=0)
    assert (padded[:, 25:] == 0).all()
    deep = finish(*(value.unflatten(0, (2, 2)) for value in (x, bonded, mask, aatype)))
    torch.testing.assert_close(deep.flatten(0, 1), together, atol=1e-9, rtol=0)


def test_errors():
    x, bonded, mask, aatype = chains(1, 5)
    with pytest.raises(ValueError, match=r"aatype must have shape \(1, 5\), got \(1, 4\)"):
        finish(x, bonded, mask, aatype[:, :4])
    with pytest.raises(ValueError, match="tether"):
        FinishOptions(tether=2.0)
