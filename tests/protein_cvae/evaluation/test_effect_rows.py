"""Numbers of the moves against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from protein_cvae.evaluation.columns import EFFECT_COLUMNS
from protein_cvae.evaluation.latent_effects import (
    GLOBAL,
    LatentEffects,
    Move,
    effect_rows,
)
from protein_cvae.geometry.constants import CA


def made(moved: np.ndarray, base: np.ndarray, *moves: Move) -> LatentEffects:
    length = len(base)
    return LatentEffects(
        moves, torch.from_numpy(base), torch.from_numpy(moved),
        torch.zeros(length, dtype=torch.int64), torch.arange(length),
    )  # fmt: skip


def test_scores_of_a_single_residue_in_another_pose():
    rng = np.random.default_rng(0)
    base = 20 * rng.normal(size=(40, 3, 3))
    moved = base.copy()
    moved[7] += [0.0, 3.0, 4.0]
    turn = Rotation.random(random_state=1).as_matrix()
    effects = made((moved @ turn.T + 5)[None], base, Move("shift", "prior", 7, 0, 1.0))
    displacement = effects.displacement()[0].numpy()
    np.testing.assert_allclose(displacement, 5.0 * (np.arange(40) == 7), atol=1e-9)
    (row,) = effect_rows(effects)
    assert set(EFFECT_COLUMNS) <= set(row)
    assert row["own"] == pytest.approx(5)
    assert row["largest"] == pytest.approx(5)
    assert row["rms"] == pytest.approx(5 / 40**0.5)
    assert row["extent"] == pytest.approx(1 / 40)
    assert (row["within_5"], row["within_10A"]) == (pytest.approx(1), pytest.approx(1))


def test_scores_against_numpy_and_scipy():
    rng = np.random.default_rng(1)
    base = 12 * rng.normal(size=(30, 3, 3))
    moved = base + rng.normal(size=(4, 30, 3, 3)) * np.linspace(0.1, 1, 30)[:, None, None]
    moves = [Move("turn", "prior", place, 0, s) for place, s in ((3, 1.0), (20, -1.0))]
    moves += [Move(GLOBAL, "prior", None, 0, s) for s in (1.0, -1.0)]
    effects = made(moved, base, *moves)
    d = []
    for x, move in zip(moved, moves, strict=True):
        weight = np.ones((30, 3))
        if move.residue is not None:
            weight[move.residue] = 0
        w = weight.reshape(-1, 1)
        points = [y.reshape(-1, 3) for y in (base, x)]
        centres = [(w * y).sum(0) / w.sum() for y in points]
        turn, _ = Rotation.align_vectors(points[0] - centres[0], points[1] - centres[1], w[:, 0])
        gap = turn.apply(points[1] - centres[1]) + centres[0] - points[0]
        d.append(np.sqrt((gap**2).sum(1).reshape(30, 3).mean(1)))
    d = np.array(d)
    np.testing.assert_allclose(effects.displacement().numpy(), d, atol=1e-8)
    rows = {row["latent"]: row for row in effect_rows(effects)}
    assert np.isnan(rows[GLOBAL]["own"])
    assert np.isnan(rows[GLOBAL]["within_5"])
    assert rows[GLOBAL]["rms"] == pytest.approx(np.sqrt((d[2:] ** 2).mean(1)).mean())
    extent = (d[2:] ** 2).sum(1) ** 2 / (30 * (d[2:] ** 4).sum(1))
    assert rows[GLOBAL]["extent"] == pytest.approx(extent.mean())
    away = cdist(base[:, CA], base[:, CA])
    for name, near in (
        ("within_5", np.abs(np.subtract.outer(np.arange(30), np.arange(30))) <= 5),
        ("within_10A", away <= 10),
    ):
        shares = [(d[m] ** 2)[near[p]].sum() / (d[m] ** 2).sum() for m, p in ((0, 3), (1, 20))]
        assert rows["turn"][name] == pytest.approx(np.mean(shares))
    assert rows["turn"]["own"] == pytest.approx((d[0, 3] + d[1, 20]) / 2)
    change = effects.distance_change(2).numpy()
    now = moved[2][:, CA]
    np.testing.assert_allclose(change, cdist(now, now) - away, atol=1e-9)
