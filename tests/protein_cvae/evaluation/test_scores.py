"""Every score of conformers against NumPy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from protein_cases import (
    kabsch_rmsd,
    make_cases,
    make_ensemble,
    matrix,
    mean_profile,
    noisy,
)
from scipy.spatial.transform import Rotation

from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.scores import (
    Moments,
    reconstruction,
    score_conformers,
)
from protein_cvae.evaluation.tables import (
    mean,
    reconstruction_row,
)


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def test_the_real_models_are_a_perfect_generator(case):
    scores = score_conformers(case.coordinates, case)
    for part in (scores.core, scores.all):
        assert part.spread_ratio == pytest.approx(1, abs=1e-5)
        assert part.min_rmsd == pytest.approx(0, abs=1e-3)
        assert part.coverage == 1
        assert part.rmsf_correlation == pytest.approx(1, abs=1e-5)
    assert scores.validity["inside"] == 1
    assert scores.validity["valid"] == 1
    assert scores.validity["right_handed_helix"] == 1
    assert math.isnan(scores.seconds)


def test_conformer_scores_agree_with_numpy(case):
    made = noisy(case, 0.4)
    scores = score_conformers(made, case, threshold=0.8)
    real, ca = case.coordinates[:, :, 1].double().numpy(), made[:, :, 1].double().numpy()
    judged = real[list(case.judged)]
    core = case.prepared.core.numpy()
    assert 5 <= core.sum() < len(core)
    for part, keep in ((scores.core, core), (scores.all, np.ones_like(core))):
        pairs = matrix(ca[:, keep], judged[:, keep])
        own, theirs = (matrix(x[:, keep], x[:, keep]) for x in (ca, real))
        ratio = (own.sum() / (7 * 6)) / (theirs.sum() / (8 * 7))
        assert part.min_rmsd == pytest.approx(pairs.min(0).mean(), rel=1e-4)
        assert part.precision == pytest.approx(pairs.min(1).mean(), rel=1e-4)
        assert part.coverage == pytest.approx((pairs.min(0) < 0.8).mean())
        assert part.spread_ratio == pytest.approx(ratio, rel=1e-3)
        r = np.corrcoef(mean_profile(ca[:, keep]), mean_profile(real[:, keep]))[0, 1]
        assert part.rmsf_correlation == pytest.approx(r, abs=1e-3)


def test_bad_geometry_is_seen(case):
    scores = score_conformers(noisy(case, 0.4), case).validity
    assert scores["inside"] < 0.1
    assert scores["valid"] == 0
    assert scores["bond_z_rms"] > 10


def test_reconstruction_agrees_with_numpy(case):
    judged = list(case.judged)
    wanted = case.coordinates[judged].double().numpy()
    turn = torch.tensor(Rotation.random(random_state=5).as_matrix(), dtype=torch.float32)
    found = (case.coordinates[judged] + 0.3 * torch.randn(2, 26, 3, 3)) @ turn.mT + 9
    scores = reconstruction(found, case)
    x, core = found.double().numpy(), case.prepared.core.numpy()
    for j in range(2):
        pairs = {
            "ca_all": (x[j, :, 1], wanted[j, :, 1]),
            "ca_core": (x[j, core, 1], wanted[j, core, 1]),
            "backbone_all": (x[j].reshape(-1, 3), wanted[j].reshape(-1, 3)),
            "backbone_core": (x[j, core].reshape(-1, 3), wanted[j, core].reshape(-1, 3)),
        }
        for key, pair in pairs.items():
            assert getattr(scores, key)[j] == pytest.approx(kabsch_rmsd(*pair), rel=1e-3)


def test_a_small_core_is_not_scored(case):
    core = torch.zeros_like(case.prepared.core)
    core[:4] = True
    small = dataclasses.replace(case, prepared=dataclasses.replace(case.prepared, core=core))
    assert score_conformers(small.coordinates, small).core is None
    scores = reconstruction(small.coordinates[list(small.judged)], small)
    assert all(math.isnan(value) for value in scores.ca_core)
    row = reconstruction_row({"group": "known"}, "template", scores)
    assert row["ca_core"] == [None, None]
    assert math.isnan(mean([row], "ca_core"))


def test_pooled_moments_are_those_of_the_union():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 0.05, 0.2]
    )
    pooled = Moments.of(rows[:15]) + Moments.of(rows[15:])
    assert pooled.active() == int((rows.var(0) > 0.01).sum()) == 2
