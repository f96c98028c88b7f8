"""Cases: given and judged models, residues that are left out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_cases import (
    gappy,
    make_cases,
    make_ensemble,
)

from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import Note, ReadReport


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
    made = make_cases(gappy(ensemble, 3, 10), incomplete="drop")[0]
    assert made.left_out == (ensemble.label(10),)
    assert made.head["left_out"] == [ensemble.label(10)]
    assert made.prepared.ensemble.length == 25
    assert bool(made.prepared.ensemble.mask.all())
    assert not bool(made.prepared.ensemble.bonded[9])
    assert made.prepared.residue_index.tolist() == [*range(10), *range(11, 26)]
    nothing = dataclasses.replace(
        ensemble,
        mask=torch.zeros_like(ensemble.mask),
        coordinates=0 * ensemble.coordinates,
    )
    with pytest.raises(ValueError, match="alpha: 0 residues are present in every model"):
        EvaluationCase.build(
            dataclasses.replace(made.prepared, ensemble=nothing, embedding=torch.zeros(26, 0)),
            ensemble.aatype,
        )


def test_residues_that_a_model_lacks_are_refused_unless_told():
    alpha, beta, gamma = (make_ensemble(name) for name in ("alpha", "beta", "gamma"))
    holes = [gappy(gappy(alpha, 3, 10), 6, 0), beta, gappy(gamma, 0, 25)]
    files = (Note("conformer", 4, "", "is of c3.pdb"), Note("conformer", 1, "", "is of c0.pdb"))
    holes[0] = dataclasses.replace(holes[0], source="c0.pdb", report=ReadReport(files))
    with pytest.raises(ValueError, match="2 of 3 proteins cannot be scored") as caught:
        make_cases(*holes)
    said = str(caught.value)
    assert "c0.pdb: model 4, which is of c3.pdb, and 1 more lack N, CA or C of residues: " in said
    assert f"{alpha.label(0)}, {alpha.label(10)}; set incomplete: drop (--incomplete drop)" in said
    assert f"test: model 1 lacks N, CA or C of residues: {gamma.label(25)}; " in said
    assert said.endswith("set skip_bad (--skip-bad) to go on without")
    with pytest.warns(UserWarning, match=r"skip_bad: 2 of 3 proteins cannot be scored: c0\.pdb"):
        (case,) = make_cases(*holes, skip_bad=True)
    assert (case.name, case.left_out) == ("beta", ())
    with pytest.raises(ValueError, match=r"test: model 1 lacks .* residues that all models have$"):
        make_cases(holes[2], skip_bad=True)


def test_what_reading_left_out_of_the_chain_is_told():
    ensemble = make_ensemble("alpha")
    notes = (
        Note("left out", 3, "A TRP 7", "of c2.pdb"),
        Note("left out", 4, "A TRP 7", "of c2.pdb"),
        Note("left out", 3, "B GLY 2", "of c2.pdb"),
    )
    case = make_cases(dataclasses.replace(ensemble, report=ReadReport(notes)))[0]
    assert case.left_out == ("A TRP 7 of c2.pdb",)


def test_proteins_that_cannot_be_scored_are_refused_before_any_is():
    """Not when their turn comes, minutes of scoring later."""
    with pytest.raises(ValueError, match="few has 2 distinct models"):
        make_cases(make_ensemble("alpha"), make_ensemble("few", models=2), unseen=("few",))
