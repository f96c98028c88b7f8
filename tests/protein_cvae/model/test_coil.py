"""The prior of torsions against SciPy; where tails are and how they hang on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from protein_batches import conformer, moved, small_model
from scipy.stats import vonmises

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.geometry.internal import BondGeometry, bond_geometry
from protein_cvae.geometry.nerf import build_backbone, ideal_bonds
from protein_cvae.geometry.ramachandran import CLASS_NAMES, ramachandran_class
from protein_cvae.model.coil import CoilPrior, basin, von_mises
from protein_cvae.model.sampling import repeat_item
from protein_cvae.model.states import Condition
from protein_cvae.model.tails import tails
from protein_cvae.residues import ALPHABET

ENDS = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


class Told(CoilPrior):
    """A prior whose q and κ are given."""

    def __init__(self, q: tuple[float, ...], log_kappa: float = 4.0) -> None:
        super().__init__(8)
        self.double()
        self.q, self.log_kappa = torch.tensor(q, dtype=torch.float64), log_kappa

    def forward(self, batch: ProteinBatch, condition: Condition):
        mask = condition.modes.mask
        q = torch.nn.functional.pad(self.q, (0, mask.shape[1] - len(self.q)))
        q = q.expand(mask.shape) * mask
        return q, torch.full_like(q, self.log_kappa)


def folded(length: int = len(ENDS), seed: int = 0, letters: str = ALPHABET) -> ProteinBatch:
    """A chain with bonds near the ideal ones, its template of other torsions."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch = conformer(length, seed)

    def chain() -> torch.Tensor:
        phi, psi = -1.3 + 0.2 * draw(1, length), 2.3 + 0.2 * draw(1, length)
        omega = math.pi + 0.05 * draw(1, length)
        bonds = BondGeometry(*(x + 0.02 * draw(1, length) for x in ideal_bonds(phi)))
        x = build_backbone(Torsions(phi, psi, omega), batch.bonded, bonds=bonds)
        return x @ rotation_from_axis_angle(draw(3)).mT + 10 * draw(3)

    names = torch.tensor([ALPHABET.index(letter) for letter in letters])
    chosen = names[torch.randint(len(names), (1, length), generator=generator)]
    return dataclasses.replace(batch, coordinates=chain(), template=chain(), aatype=chosen)


def drawn_motion(items: int, length: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shift, turn = torch.randn(2, items, length, 3, generator=generator, dtype=torch.float64)
    return shift, 0.3 * turn


def seeds(items: int, seed: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, 2, generator=generator, dtype=torch.float64)


@torch.no_grad()
def conditions(batch: ProteinBatch, count: int) -> tuple[ProteinBatch, Condition]:
    return repeat_item(batch, count), small_model().condition(batch).repeat(count)


def atoms(
    batch: ProteinBatch, condition: Condition, shift: torch.Tensor, turn: torch.Tensor
) -> torch.Tensor:
    """(B, L, 3, 3) each residue of the template carried along by its frame."""
    local = (batch.template - condition.origin[:, :, None]) @ condition.rotation
    rotation = condition.rotation @ rotation_from_axis_angle(turn)
    ca = condition.origin + (condition.rotation @ shift[..., None])[..., 0]
    return local @ rotation.mT + ca[:, :, None]


# -- density ------------------------------------------------------------------------------------


def weighted_prior() -> CoilPrior:
    prior = CoilPrior(8).double()
    generator = torch.Generator().manual_seed(0)
    prior.basins.data = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return prior


@pytest.mark.parametrize("kind", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
def test_the_coil_density_is_one_in_all_and_its_basins_have_their_weights(kind: int):
    prior, count = weighted_prior(), 360
    step = 2 * math.pi / count
    middle = -math.pi + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    phi, psi = torch.meshgrid(middle, middle, indexing="ij")
    with torch.no_grad():
        density = prior.log_coil(phi, psi, torch.full_like(phi, kind, dtype=torch.int64)).exp()
    mass = density * step**2
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    weights = prior.basins[kind].softmax(0)
    for number in range(3):
        inside = float(mass[basin(phi, psi) == number].sum())
        assert inside == pytest.approx(float(weights[number].detach()), abs=2e-3)


@pytest.mark.parametrize("kappa", [1.0, 25.0, 900.0])
def test_von_mises_is_that_of_scipy(kappa: float):
    angle = torch.linspace(-7, 7, 41, dtype=torch.float64)
    found = von_mises(angle, torch.tensor(kappa, dtype=torch.float64))
    wrapped = np.arctan2(np.sin(angle.numpy()), np.cos(angle.numpy()))
    np.testing.assert_allclose(found.numpy(), vonmises.logpdf(wrapped, kappa), rtol=1e-10)


def test_basins():
    degrees = torch.tensor([[-60.0, -45.0], [-60.0, 45.0], [-120, 130], [-70, -170], [60, 40]])
    phi, psi = torch.deg2rad(degrees).T
    assert basin(phi, psi).tolist() == [0, 0, 1, 1, 2]
    assert basin(phi + 2 * math.pi, psi - 2 * math.pi).tolist() == [0, 0, 1, 1, 2]


def test_likelihood_is_the_mixture_residue_by_residue():
    model, batch = small_model(), folded(14, 1)
    bonded, mask = batch.bonded.clone(), batch.mask.clone()
    bonded[0, 5], mask[0, 9] = False, False
    batch = dataclasses.replace(batch, bonded=bonded, mask=mask)
    with torch.no_grad():
        condition = model.condition(batch)
        q, log_kappa = model.coil(batch, condition)
        found = model.coil.nll(batch, condition)
    real, _ = backbone_dihedrals(batch.coordinates, bonded, mask)
    template, _ = backbone_dihedrals(batch.template, bonded, mask)
    kind = ramachandran_class(batch.aatype, real.omega, bonded & mask)
    nats = []
    for i in range(14):
        # φ needs the residue before, ψ the one after.
        if i in (0, 13) or not all(
            mask[0, j] and mask[0, j + 1] and bonded[0, j] for j in (i - 1, i)
        ):
            continue
        kappa, share = math.exp(float(log_kappa[0, i])), float(q[0, i])
        near = vonmises.pdf(float(real.phi[0, i] - template.phi[0, i]), kappa)
        near *= vonmises.pdf(float(real.psi[0, i] - template.psi[0, i]), kappa)
        with torch.no_grad():
            coil = model.coil.log_coil(real.phi[0, i], real.psi[0, i], kind[0, i]).exp()
        nats.append(-math.log((1 - share) * near + share * float(coil)))
    assert len(nats) == 7
    assert float(found[0]) == pytest.approx(np.mean(nats), rel=1e-9)


def test_likelihood_of_a_batch_is_that_of_its_items_and_none_without_template():
    model = small_model()
    items = [folded(14, 1), dataclasses.replace(conformer(18, 2, templated=False))]
    joined = collate(items)
    found = model.coil.nll(joined, model.condition(joined))
    alone = model.coil.nll(items[0], model.condition(items[0]))
    torch.testing.assert_close(found[:1], alone, rtol=1e-9, atol=1e-9)
    assert found[1].item() == 0.0
    found.sum().backward()
    for name, parameter in model.coil.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("withheld", [False, True])
def test_q_and_width_do_not_depend_on_the_pose_or_a_withheld_sequence(withheld: bool):
    model, batch = small_model(), folded(14, 1)
    other = moved(batch, conformer_pose=1, template_pose=2)
    if withheld:
        batch, other = (
            dataclasses.replace(x, sequence_mask=torch.tensor([False])) for x in (batch, other)
        )
        other = dataclasses.replace(other, aatype=(batch.aatype + 3) % 20)
    with torch.no_grad():
        conditions_ = [model.condition(x) for x in (batch, other)]
        found = [model.coil(x, c) for x, c in zip((batch, other), conditions_, strict=True)]
        nats = [model.coil.nll(x, c) for x, c in zip((batch, other), conditions_, strict=True)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(*nats, rtol=1e-7, atol=1e-7)


# -- where tails are ----------------------------------------------------------------------------

CASES = {
    "both ends": ((0.8, 0.8, 0.1, 0.1, 0.9, 0.1, 0.8, 0.8), (), (), 0.5, {0, 1, 5, 6, 7}),
    "a flexible middle stays": ((0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1), (), (), 0.4, set()),
    "nothing above": ((0.3,) * 6, (), (), 0.5, set()),
    "the least stays": ((0.9, 0.8, 0.9, 0.95), (), (), 0.1, {1, 2, 3}),
    "all alike stay": ((0.9,) * 5, (), (), 0.1, set()),
    "a break": ((0.1, 0.1, 0.1, 0.9, 0.8, 0.1, 0.1, 0.1), (3,), (), 0.4, {3, 4}),
    "absent": ((0.9, 0.9, 0.1, 0.1, 0.1, 0.9), (), (5,), 0.5, {0, 1}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_tails_reach_inwards_from_the_ends_of_each_piece(case: str):
    q, breaks, absent, threshold, wanted = CASES[case]
    value = torch.tensor([q], dtype=torch.float64)
    mask = torch.ones(value.shape, dtype=torch.bool)
    mask[0, list(absent)] = False
    link = mask.clone()
    link[0, [*breaks, -1]] = False
    link[:, :-1] &= mask[:, 1:]
    found = tails(value, link, mask, torch.tensor([[threshold]], dtype=torch.float64))
    assert set(found[0].nonzero()[:, 0].tolist()) == wanted


# -- tails that are drawn -----------------------------------------------------------------------


def test_residues_outside_tails_keep_their_motion_exactly():
    prior = Told(ENDS)
    batch, condition = conditions(folded(), 20)
    shift, turn = drawn_motion(20, 10)
    new_shift, new_turn = prior.with_tails(batch, condition, shift, turn, seeds(20))
    changed = (new_shift != shift).any(-1)
    assert torch.equal(changed, (new_turn != turn).any(-1))
    assert not bool(changed[:, 4:6].any())
    assert bool(changed[:, [0, 1, -2, -1]].all())
    # The threshold differs between conformers, and so where a tail begins.
    assert 0 < int(changed[:, 2].sum()) < 20
    none = Told((0.0,) * 10).with_tails(batch, condition, shift, turn, seeds(20))
    assert torch.equal(none[0], shift)
    assert torch.equal(none[1], turn)


def test_bonds_and_peptides_of_tails_are_those_of_the_template():
    """Up to and with the bond to the residue that they hang on."""
    prior = Told(ENDS)
    batch, condition = conditions(folded(), 20)
    shift, turn = drawn_motion(20, 10)
    new_shift, new_turn = prior.with_tails(batch, condition, shift, turn, seeds(20))
    changed = (new_shift != shift).any(-1)
    x = atoms(batch, condition, new_shift, new_turn)
    found, defined = bond_geometry(x, batch.bonded, batch.mask)
    wanted, _ = bond_geometry(batch.template, batch.bonded, batch.mask)
    either = changed | torch.cat([changed[:, 1:], changed[:, -1:]], 1)
    for name in BondGeometry._fields:
        here = getattr(defined, name) & either
        a, b = (getattr(values, name)[here] for values in (found, wanted))
        assert len(a) >= 4 * 20
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    (_, psi, omega), there = backbone_dihedrals(x, batch.bonded, batch.mask)
    (_, old_psi, old_omega), _ = backbone_dihedrals(batch.template, batch.bonded, batch.mask)
    peptide = there.omega & either
    torch.testing.assert_close(omega[peptide].cos(), old_omega[peptide].cos(), rtol=0, atol=1e-7)
    # ψ of the residue before a tail is inside.
    last = changed.roll(-1, 1) & ~changed & there.psi
    assert int(last.sum()) == 20
    torch.testing.assert_close(psi[last], old_psi[last], rtol=0, atol=1e-7)


def test_tails_move_with_the_residue_they_hang_on():
    prior = Told(ENDS)
    batch, condition = conditions(folded(), 8)
    zero = torch.zeros(8, 10, 3, dtype=torch.float64)
    shift, turn = drawn_motion(8, 10)
    still = atoms(batch, condition, *prior.with_tails(batch, condition, zero, zero, seeds(8)))
    carried = atoms(batch, condition, *prior.with_tails(batch, condition, shift, turn, seeds(8)))
    changed = (still != batch.template).flatten(2).any(-1)
    for item in range(8):
        inside = (still[item] - batch.template[item]).flatten(1).abs().amax(1) < 1e-9
        places = inside.nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1))
        for anchor, part in ((places[0], slice(0, places[0])), (places[-1], slice(places[-1], 10))):
            base, at = condition.rotation[item, anchor], condition.origin[item, anchor]
            swing = base @ rotation_from_axis_angle(turn[item, anchor]) @ base.mT
            wanted = (still[item, part] - at) @ swing.mT + at + base @ shift[item, anchor]
            torch.testing.assert_close(carried[item, part], wanted, rtol=0, atol=1e-6)
    assert bool(changed.any())


def test_tails_repeat_with_their_noise_in_any_pose_and_any_batch():
    prior, one = Told(ENDS), folded()
    batch, condition = conditions(one, 5)
    motion = drawn_motion(5, 10)
    first = prior.with_tails(batch, condition, *motion, seeds(5))
    again = prior.with_tails(batch, condition, *motion, seeds(5))
    other = prior.with_tails(batch, condition, *motion, seeds(5, seed=5))
    turned, condition_there = conditions(moved(one, template_pose=2), 5)
    there = prior.with_tails(turned, condition_there, *motion, seeds(5))
    joined = collate([one, folded(16, 1)])
    padded = [torch.nn.functional.pad(x[:2], (0, 0, 0, 6)) for x in motion]
    with torch.no_grad():
        beside = prior.with_tails(joined, small_model().condition(joined), *padded, seeds(5)[:2])
    for k in range(2):
        assert torch.equal(first[k], again[k])
        assert bool((first[k] != other[k]).flatten(1).any(1).all())
        torch.testing.assert_close(first[k], there[k], rtol=0, atol=1e-6)
        torch.testing.assert_close(first[k][:1], beside[k][:1, :10], rtol=0, atol=1e-6)


def test_a_withheld_sequence_does_not_shape_tails():
    prior = Told(ENDS)
    glycine, proline = (folded(letters=letter) for letter in "GP")
    proline = dataclasses.replace(proline, template=glycine.template)
    motion = drawn_motion(4, 10)
    for given in (True, False):
        found = []
        for item in (glycine, proline):
            item = dataclasses.replace(item, sequence_mask=torch.tensor([given]))
            batch, condition = conditions(item, 4)
            found.append(prior.with_tails(batch, condition, *motion, seeds(4))[0])
        assert torch.allclose(*found, atol=1e-9) != given


def test_torsions_of_many_tails_have_the_weights_of_the_mixture():
    """In coils with min(1, q / θ) where θ is below q of the neighbourhood, else the template's.

    q of residue 1 is 0.4, averaged over three 0.8, that of the end 0.7, and θ uniform in (0.2, 1).
    """
    count = 4000
    prior = Told((1.0, 0.4, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.4, 1.0), log_kappa=7.0)
    coils = (0.2 + 0.4 * math.log(0.7 / 0.4)) / 0.8
    # No helical coils, so that all near the template's torsions are not coils.
    prior.basins.data[:] = torch.tensor([-40.0, math.log(0.6), math.log(0.4)])
    one = folded(letters="A")
    torsions, _ = backbone_dihedrals(one.template, one.bonded, one.mask)
    torsions.phi[:, [1, 8]], torsions.psi[:, [1, 8]] = -1.1, -0.7
    one = dataclasses.replace(one, template=build_backbone(torsions, one.bonded))
    batch, condition = conditions(one, count)
    zero = torch.zeros(count, 10, 3, dtype=torch.float64)
    shift, turn = prior.with_tails(batch, condition, zero, zero, seeds(count))
    x = atoms(batch, condition, shift, turn)
    (phi, psi, _), _ = backbone_dihedrals(x, batch.bonded, batch.mask)

    def near(share: torch.Tensor, wanted: float) -> bool:
        error = math.sqrt(wanted * (1 - wanted) / count)
        return abs(float(share.double().mean()) - wanted) < 5 * error

    width = math.exp(-3.5)
    for place in (1, 8):
        away = phi[:, place] + 1.1, psi[:, place] + 0.7
        close = (away[0].abs() < 6 * width) & (away[1].abs() < 6 * width)
        tail = shift[:, place].any(-1)
        assert near(tail, 0.5 / 0.8)
        assert near(~close, coils)
        assert near(phi[:, place] > 0, 0.4 * coils)
        for gap in away:
            mine = gap[close & tail]
            # Standard error of a standard deviation.
            assert abs(float(mine.std()) - width) < 5 * width / math.sqrt(2 * len(mine))
