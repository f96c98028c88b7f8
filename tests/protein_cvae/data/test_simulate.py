"""Simulated ensembles: deterministic, valid, compact, with the spread and sequences intended."""

import pytest
import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.geometry.projection import inside_tolerance
from protein_cvae.geometry.validity import validity

TAIL = 7  # no tail is longer


@pytest.fixture(scope="module")
def ensembles() -> list[Ensemble]:
    return simulate_ensembles(5, 8, 48, 60, seed=3)


def spread(ca: Tensor) -> float:
    first, second = torch.triu_indices(len(ca), len(ca), 1)
    return aligned_rmsd(ca[first], ca[second]).mean().item()


def test_sizes_and_names(ensembles):
    assert [ensemble.num_models for ensemble in ensembles] == [8] * 5
    assert all(48 <= ensemble.length <= 60 for ensemble in ensembles)
    assert len({ensemble.name for ensemble in ensembles}) == 5
    assert len({ensemble.sequence for ensemble in ensembles}) == 5
    assert all(ensemble.coordinates.dtype == torch.float32 for ensemble in ensembles)


def test_pure_function_of_the_seed(ensembles):
    again = simulate_ensembles(2, 8, 48, 60, seed=3)
    for first, second in zip(ensembles, again, strict=False):
        assert torch.equal(first.coordinates, second.coordinates)
        assert first.sequence == second.sequence
    other = simulate_ensembles(1, 2, 48, 60, seed=4)[0]
    assert other.sequence != ensembles[0].sequence


def test_geometry_is_valid(ensembles):
    for ensemble in ensembles:
        bonded = ensemble.bonded.expand_as(ensemble.mask)
        assert inside_tolerance(ensemble.coordinates, bonded, ensemble.mask).all()
        found = validity(ensemble.coordinates, ensemble.mask, ensemble.bonded, ensemble.aatype)
        summary = found.summary()
        assert summary["outlier"] < 0.03
        assert summary["clash"] == 0
        assert int(found.left_helix.sum()) == 0


def test_core_moves_and_tails_move_more(ensembles):
    for ensemble in ensembles:
        ca = ensemble.coordinates[:, :, CA]
        core = spread(ca[:, TAIL:-TAIL])
        assert 0.3 < core < 2.0
        assert spread(ca) > core
        fitted = align(ca[:, TAIL:-TAIL], ca[:1, TAIL:-TAIL].expand(len(ca), -1, -1)).apply(ca)
        rmsf = fitted.var(0).sum(-1).sqrt()
        assert rmsf[[0, -1]].mean() > 1.5 * rmsf[TAIL:-TAIL].mean()


def test_models_are_superposed(ensembles):
    ca = ensembles[0].coordinates[:, :, CA]
    as_given = (ca[1:, TAIL:-TAIL] - ca[:1, TAIL:-TAIL]).square().sum(-1).mean().sqrt()
    assert as_given < 4


def test_compact(ensembles):
    """On average no wider than 1.5 times a globular protein, Rg = 2.2 N^0.38 Å; a chain is 3 times.

    Rule: Skolnick, Kolinski and Ortiz (1997), J. Mol. Biol. 265, 217-241.
    """
    ratio = []
    for ensemble in ensembles:
        ca = ensemble.coordinates[0, :, CA]
        gyration = (ca - ca.mean(0)).square().sum(-1).mean().sqrt().item()
        ratio.append(gyration / (2.2 * ensemble.length**0.38))
    assert sum(ratio) / len(ratio) < 1.5


def test_sequence_follows_structure():
    """Helix formers are commoner where φ, ψ are helical, β formers where extended."""
    counts = torch.zeros(2, 2)
    for ensemble in simulate_ensembles(6, 1, 60, 80, seed=5):
        bonded = ensemble.bonded[None]
        angles, _ = backbone_dihedrals(ensemble.coordinates, bonded, ensemble.mask)
        helical = (angles.psi[0] + 0.7).abs() < 0.4
        extended = (angles.psi[0] - 2.3).abs() < 0.4
        letters = torch.tensor([[letter in "AELKQMR", letter in "VIYFTW"]
                                for letter in ensemble.sequence]).float()  # fmt: skip
        counts[0] += letters[helical].sum(0)
        counts[1] += letters[extended].sum(0)
    assert counts[0, 0] > 2 * counts[0, 1]
    assert counts[1, 1] > counts[1, 0]


def test_one_model_and_shortest_chains():
    for ensemble in simulate_ensembles(2, 1, 24, 24, seed=0):
        assert ensemble.coordinates.shape == (1, 24, 3, 3)
        assert ensemble.coordinates.isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match="num_models must be positive, got 1 and 0"):
        simulate_ensembles(1, 0)
    with pytest.raises(ValueError, match="24 <= min_length <= max_length, got 50 and 40"):
        simulate_ensembles(1, 1, 50, 40)
