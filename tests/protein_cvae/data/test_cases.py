"""Cases: given and judged models, residues that are left out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_cases import (
    make_cases,
    make_ensemble,
)

from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.splits import EnsembleSplit


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def test_a_known_case_keeps_the_split_of_training(case):
    entry = EnsembleSplit.declare([make_ensemble("alpha")], held_out_fraction=0.25).entries[0]
    assert (case.given, case.judged) == (entry.train, entry.heldout)
    assert case.group == "known"
    assert case.prepared.central in case.given
    assert case.to("cpu") is case


def test_an_unseen_case_is_divided_and_judged_models_decide_nothing():
    alpha, beta = make_ensemble("alpha"), make_ensemble("beta", 31)
    known, unseen = make_cases(alpha, beta, unseen=("beta",))
    assert (known.group, unseen.group) == ("known", "unseen")
    assert sorted(unseen.given + unseen.judged) == list(range(8))
    assert len(unseen.judged) == 2
    assert torch.equal(unseen.training_aatype, alpha.aatype)
    # Spoil the judged models: the same core and centre must come out.
    spoiled = beta.coordinates.clone()
    spoiled[list(unseen.judged)] = torch.randn(2, 31, 3, 3, generator=torch.Generator())
    changed = dataclasses.replace(beta, coordinates=spoiled)
    other = PreparedEnsemble.build(0, changed, unseen.given, unseen.judged)
    assert torch.equal(other.core, unseen.prepared.core)
    assert other.central == unseen.prepared.central


def test_residues_that_a_model_lacks_are_left_out():
    ensemble = make_ensemble("alpha")
    mask = ensemble.mask.clone()
    mask[3, 10] = False
    gappy = dataclasses.replace(
        ensemble, mask=mask, coordinates=ensemble.coordinates * mask[..., None, None]
    )
    made = make_cases(gappy)[0]
    assert made.prepared.ensemble.length == 25
    assert bool(made.prepared.ensemble.mask.all())
    assert not bool(made.prepared.ensemble.bonded[9])
    assert made.prepared.residue_index.tolist() == [*range(10), *range(11, 26)]
    nothing = dataclasses.replace(
        ensemble, mask=torch.zeros_like(mask), coordinates=0 * ensemble.coordinates
    )
    with pytest.raises(ValueError, match="alpha: 0 residues are present in every model"):
        EvaluationCase.build(
            dataclasses.replace(made.prepared, ensemble=nothing, embedding=torch.zeros(26, 0)),
            ensemble.aatype,
        )


def test_proteins_that_cannot_be_scored_are_refused_before_any_is():
    """Not when their turn comes, minutes of scoring later."""
    with pytest.raises(ValueError, match="few has 2 distinct models"):
        make_cases(make_ensemble("alpha"), make_ensemble("few", models=2), unseen=("few",))
