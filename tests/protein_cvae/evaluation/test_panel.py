"""The field's panel against MDTraj, scikit-learn, SciPy and closed forms."""

from __future__ import annotations

import math

import mdtraj
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr
from sklearn.decomposition import PCA

from protein_cvae.evaluation import panel as panel_module
from protein_cvae.evaluation.panel import PanelScores, panel
from protein_cvae.evaluation.panel_table import PANEL_KEYS, panel_table, panel_values

LENGTH = 18


def models(count: int, seed: int, noise: float = 0.8) -> torch.Tensor:
    """(M, L, 3) copies of one compact walk with noise that differs along the chain."""
    walk = np.random.default_rng(99).normal(size=(LENGTH, 3)).cumsum(0) * 2.5
    rng = np.random.default_rng(seed)
    width = noise * np.linspace(0.3, 1.5, LENGTH)[:, None]
    x = walk + width * rng.normal(size=(count, LENGTH, 3))
    return torch.tensor(x + 20 * rng.normal(size=(count, 1, 3)))


def trajectory(x: torch.Tensor) -> mdtraj.Trajectory:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(LENGTH):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain))
    return mdtraj.Trajectory(x.numpy() / 10, topology)


@pytest.fixture(scope="module")
def ensembles() -> dict[str, torch.Tensor]:
    """As many judged models as generated ones: an optimal coupling is then a permutation."""
    return {"generated": models(9, 1), "judged": models(9, 2, 1.1), "reference": models(20, 3, 1.0)}


@pytest.fixture(scope="module")
def template() -> torch.Tensor:
    return models(1, 4, 0.5)[0]


@pytest.fixture(scope="module")
def scores(ensembles: dict[str, torch.Tensor], template: torch.Tensor) -> PanelScores:
    return panel(template=template, **ensembles)


@pytest.fixture(scope="module")
def posed(ensembles: dict[str, torch.Tensor], template: torch.Tensor) -> dict[str, np.ndarray]:
    """Superposed on the template by MDTraj, Å."""
    on = trajectory(template[None])
    return {name: trajectory(x).superpose(on).xyz * 10.0 for name, x in ensembles.items()}


def test_spread_and_profiles_are_mdtrajs(
    scores: PanelScores, posed: dict[str, np.ndarray], template: torch.Tensor
) -> None:
    for name, profile, spread in (
        ("generated", scores.rmsf, scores.pairwise_rmsd),
        ("reference", scores.rmsf_real, scores.pairwise_rmsd_real),
    ):
        x = posed[name].astype(np.float64)
        found = trajectory(torch.tensor(x))
        wanted = mdtraj.rmsf(found, trajectory(template[None])) * 10
        np.testing.assert_allclose(profile, wanted, rtol=1e-3)
        pairs = [
            np.sqrt(((a - b) ** 2).sum(-1).mean())
            for i, a in enumerate(x) for j, b in enumerate(x) if i != j
        ]  # fmt: skip
        assert spread == pytest.approx(np.mean(pairs), rel=1e-4)
    assert scores.rmsf_r == pytest.approx(pearsonr(scores.rmsf, scores.rmsf_real)[0])


def test_atomic_distances_are_those_of_scipys_square_roots(
    scores: PanelScores, posed: dict[str, np.ndarray]
) -> None:
    shift, spread = [], []
    for atom in range(LENGTH):
        a, b = (posed[name][:, atom].astype(np.float64) for name in ("generated", "judged"))
        s, t = (np.cov(x.T, bias=True) for x in (a, b))
        shift.append(((a.mean(0) - b.mean(0)) ** 2).sum())
        spread.append(np.trace(s + t - 2 * sqrtm(s @ t).real))
    assert scores.rmwd_translation == pytest.approx(math.sqrt(np.mean(shift)), rel=1e-4)
    assert scores.rmwd_variance == pytest.approx(math.sqrt(np.mean(spread)), rel=1e-3)
    whole = scores.rmwd_translation**2 + scores.rmwd_variance**2
    assert scores.rmwd == pytest.approx(math.sqrt(whole))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    cost = ((first[:, None] - second[None]) ** 2).sum(-1) / LENGTH
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


def test_distances_in_principal_components_are_those_of_scikit_learn(
    scores: PanelScores, posed: dict[str, np.ndarray]
) -> None:
    flat = {name: x.reshape(len(x), -1).astype(np.float64) for name, x in posed.items()}
    made, held = flat["generated"], flat["judged"]
    reference = PCA(2).fit(flat["reference"])
    pooled = PCA(2).fit(np.concatenate((made, held)))
    for found, axes in ((scores.pca_w2, reference), (scores.joint_w2, pooled)):
        assert found == pytest.approx(
            distance(axes.transform(made), axes.transform(held)), rel=1e-3
        )
    cosine = abs(reference.components_[0] @ PCA(2).fit(made).components_[0])
    assert scores.pc_cosine == pytest.approx(cosine, rel=1e-3)


def test_pooled_axes_do_not_depend_on_how_many_models_an_ensemble_has() -> None:
    first, second = models(8, 5).numpy(), models(4, 6).numpy()
    halves = np.repeat([1 / 16, 1 / 8], [8, 4])
    ours = panel_module.principal_axes(np.concatenate((first, second)), halves)
    again = np.concatenate((first, second, second)).reshape(16, -1)  # as many of both
    theirs = PCA(2).fit(again).components_
    np.testing.assert_allclose(np.abs((ours * theirs).sum(1)), 1, rtol=1e-9)


def test_contacts_are_counted_pair_by_pair(
    scores: PanelScores, posed: dict[str, np.ndarray], template: torch.Tensor
) -> None:
    def shares(x: np.ndarray) -> np.ndarray:
        gaps = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
        return (gaps < 8.0).mean(0)

    near = shares(template[None].numpy()) > 0
    made, real = shares(posed["generated"]), shares(posed["reference"])
    for found, of in (
        (scores.weak_contacts, lambda share: near & (share < 0.9)),
        (scores.transient_contacts, lambda share: ~near & (share > 0.1)),
    ):
        a, b = of(made), of(real)
        assert (a | b).sum() > 0
        assert found == pytest.approx((a & b).sum() / (a | b).sum())
        assert 0 < found < 1


def test_an_ensemble_agrees_with_itself_and_in_any_pose(
    ensembles: dict[str, torch.Tensor], template: torch.Tensor, scores: PanelScores
) -> None:
    same = panel(ensembles["judged"], ensembles["judged"], template)
    assert same.rmwd == pytest.approx(0, abs=1e-6)
    assert same.pca_w2 == pytest.approx(0, abs=1e-6)
    assert same.weak_contacts == same.transient_contacts == 1
    assert same.rmsf_r == pytest.approx(1)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    moved = panel(
        ensembles["generated"] @ turn.mT + 7, ensembles["judged"], template, ensembles["reference"]
    )
    for name, value in panel_values(scores).items():
        assert panel_values(moved)[name] == pytest.approx(value, abs=1e-4), name


def test_a_shift_of_every_model_is_all_translation() -> None:
    """And three times the deviation from the mean is all variance, 3 σ − σ."""
    real = models(6, 7, 0.2)
    real = real - real.mean(1, keepdim=True)  # far apart, the traces lose what they differ by
    made = panel_module.gaussian_distances((real + 0.3).numpy(), real.numpy())
    np.testing.assert_allclose(made[0], 0.3 * math.sqrt(3))
    np.testing.assert_allclose(made[1], 0, atol=1e-6)
    mean = real.mean(0)
    wider = panel_module.gaussian_distances((mean + 3 * (real - mean)).numpy(), real.numpy())
    np.testing.assert_allclose(wider[0], 0, atol=1e-9)
    deviation = np.sqrt(((real - mean) ** 2).sum(-1).mean(0).numpy())
    np.testing.assert_allclose(wider[1], 2 * deviation, rtol=1e-6)


def test_too_few_models_and_another_template_are_refused(template: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least two"):
        panel(models(1, 1), models(3, 2), template)
    with pytest.raises(ValueError, match="template must be"):
        panel(models(3, 1), models(3, 2), template[:-1])


def rows() -> list[dict[str, object]]:
    found = []
    for protein in range(4):
        made, real = models(6, 10 + protein, 0.4 + 0.3 * protein), models(7, 20 + protein, 0.9)
        scores = panel(made, real, models(1, 30)[0])
        found.append(
            {"kind": "conformers", "method": "x", "protein": str(protein), **panel_values(scores)}
        )
    return found


def cells(table: str) -> dict[str, str]:
    head, _, line = ([c.strip() for c in line.strip("|").split("|")] for line in table.splitlines())
    return dict(zip(head, line, strict=True))


def test_the_table_has_medians_and_what_is_pooled_over_residues() -> None:
    mine = rows()
    assert set(PANEL_KEYS) == {key for row in mine for key in row if key.startswith("panel_")}
    found = cells(panel_table(mine, {"x": "X", "y": "never run"}))
    spread = pearsonr(*zip(
        *((r["panel_pairwise_rmsd"], r["panel_pairwise_rmsd_real"]) for r in mine), strict=True
    ))[0]  # fmt: skip
    made, real = (np.concatenate([r[k] for r in mine]) for k in ("panel_rmsf", "panel_rmsf_real"))
    for title, value in {
        "r over proteins": spread,
        "RMSF r, global": pearsonr(made, real)[0],
        "RMSF r, per target": np.median([r["panel_rmsf_r"] for r in mine]),
        "joint PCA W₂, Å": np.median([r["panel_joint_w2"] for r in mine]),
    }.items():
        assert float(found[title]) == pytest.approx(value, rel=0.01), title
    assert found["proteins"] == "4"
    assert cells(panel_table(mine[:2], {"x": "X"}))["r over proteins"] == "–"


def test_a_column_of_acceptance_only_where_draws_can_be_refused() -> None:
    mine = rows()
    assert "accepted" not in cells(panel_table(mine, {"x": "X"}))
    mine[0]["accepted"], mine[1]["accepted"] = 0.5, 1.0
    assert cells(panel_table(mine, {"x": "X"}))["accepted"] == "0.75"
