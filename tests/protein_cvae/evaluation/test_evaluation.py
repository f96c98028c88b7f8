"""Evaluation: cases, every score against NumPy, what the model is shown, tables, files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.run import evaluate
from protein_cvae.evaluation.score_protein import MODES, evaluate_case, generate
from protein_cvae.evaluation.scores import (
    ConformerScores,
    Moments,
    Reconstruction,
    pooled_active_units,
    reconstruction,
    score_conformers,
)
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import (
    case_rows,
    conformer_row,
    mean,
    metric_table,
    reconstruction_row,
    reconstruction_table,
    report,
    to_json_lines,
)
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.model.kl import kl_terms
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.residues import ALPHABET

SETTINGS = EvaluationSettings(count=5, chunk=3, figures=1)


def make_ensemble(name: str, length: int = 26, models: int = 8) -> Ensemble:
    """Two helices that move on a hinge, with a loose tail."""
    rng = np.random.default_rng(list(name.encode()))
    angles = np.tile(np.array([-1.1, -0.75, np.pi])[:, None, None], (1, models, length))
    angles[:2] += 0.02 * rng.normal(size=(2, models, length))
    angles[1, :, length // 2] += 1.5 + 0.3 * rng.normal(size=models)
    angles[:2, :, -5:] += rng.normal(size=(2, models, 5))
    bonded = torch.arange(length) < length - 1
    xyz = build_backbone(Torsions(*torch.tensor(angles)), bonded.expand(models, -1))
    turns = torch.tensor(Rotation.random(models, random_state=3).as_matrix())
    xyz = torch.einsum("mxy,mlay->mlax", turns, xyz)
    return Ensemble(
        name=name,
        coordinates=xyz.float(),
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence="".join(rng.choice(list(ALPHABET), length)),
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(1, length + 1),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="test",
        model_numbers=tuple(range(1, models + 1)),
    )


def make_cases(*ensembles: Ensemble, unseen: tuple[str, ...] = ()) -> EvaluationCases:
    split = EnsembleSplit.declare(ensembles, unseen, held_out_fraction=0.25)
    prepared = [
        PreparedEnsemble.build(i, ensemble, entry.train, entry.heldout)
        for i, (ensemble, entry) in enumerate(zip(ensembles, split.entries, strict=True))
    ]
    return EvaluationCases(
        [p for p in prepared if not p.unseen], [p for p in prepared if p.unseen], 0.25
    )


def means(network: ProteinCVAE, batch: ProteinBatch) -> Latents:
    return network.encode(batch, network.condition(batch)).mean()


def make_network(**options: object) -> ProteinCVAE:
    torch.manual_seed(0)
    settings = {
        "width": 16, "layers": 1, "condition_layers": 1, "heads": 2, "feed_forward": 16,
        "dropout": 0.2, "d_global": 4, "d_local": 11, "hidden": 8, "decoder_layers": 1,
        "chain_neighbors": 2, "spatial_neighbors": 4,
    }  # fmt: skip
    return ProteinCVAE(NetworkSettings(**(settings | options)))


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def unfinished(x: torch.Tensor, batch: ProteinBatch, mask: torch.Tensor) -> torch.Tensor:
    """A finisher that leaves a mark: everything twice as large."""
    return 2 * x


# -- independent NumPy -------------------------------------------------------------------------


def kabsch_rmsd(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    _, rssd = Rotation.align_vectors(b, a)
    return float(rssd / np.sqrt(len(a)))


def matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.array([[kabsch_rmsd(a, b) for b in second] for a in first])


def mean_profile(models: np.ndarray) -> np.ndarray:
    """RMSF about the mean after repeated superposition on it."""
    mean_model = models[0] - models[0].mean(0)
    for _ in range(30):
        moved = []
        for x in models:
            x = x - x.mean(0)
            moved.append(Rotation.align_vectors(mean_model, x)[0].apply(x))
        mean_model = np.mean(moved, 0)
    return np.sqrt(((np.array(moved) - mean_model) ** 2).sum(-1).mean(0))


def noisy(case: EvaluationCase, size: float, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = case.coordinates[torch.arange(count) % case.prepared.ensemble.num_models]
    return x + size * torch.randn(x.shape, generator=generator)


# -- cases -------------------------------------------------------------------------------------


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


def test_settings_out_of_range_are_refused():
    for wrong in ({"count": 1}, {"chunk": 0}, {"bandwidth": 1.5}, {"threshold": 0.0}):
        with pytest.raises(ValueError, match="evaluation: expected"):
            EvaluationSettings(**wrong)


# -- scores ------------------------------------------------------------------------------------


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


# -- the model ---------------------------------------------------------------------------------


def test_one_protein_is_scored_as_its_parts_say(case):
    network = make_network().train()
    result, conformers = evaluate_case(network, case, SETTINGS, None)
    assert network.training
    assert list(conformers) == list(result.conformers) == ["real", *MODES]
    assert {m: len(x) for m, x in conformers.items()} == {"real": 6, "ensemble": 5, "prior": 5}
    for mode in MODES:
        again = score_conformers(conformers[mode], case)
        assert again.all == result.conformers[mode].all
        assert result.conformers[mode].seconds > 0
    assert torch.equal(conformers["real"], case.coordinates[list(case.given)])

    network.eval()
    judged = list(case.judged)
    truth = case.prepared.ensemble.aatype
    with torch.no_grad():
        batch = collate([case.item(m) for m in judged])
        decoded, posterior, condition = network.reconstruct(batch)
        kl = kl_terms(network, posterior, condition, posterior.mean(), batch.weight)
        hidden, *_ = network.reconstruct(collate([case.item(m, sequence=False) for m in judged]))
        free, *_ = network.reconstruct(collate([case.item(m, template=False) for m in judged]))
        everything = means(network, collate([case.item(m) for m in (*case.given, *judged)]))
    assert result.reconstruction == reconstruction(decoded.coordinates, case)
    assert result.reconstruction_free == reconstruction(free.coordinates, case)
    assert result.reconstruction != result.reconstruction_free
    named, unaided = (
        float((x.logits.argmax(-1) == truth).double().mean()) for x in (decoded, hidden)
    )
    assert result.sequence.with_sequence == pytest.approx(named)
    assert result.sequence.without_sequence == pytest.approx(unaided)
    counts = torch.bincount(truth, minlength=20)
    assert result.sequence.commonest == pytest.approx(float(counts.max() / counts.sum()))
    assert result.latents.kl["global"] == pytest.approx(float(kl.z_global), rel=1e-4)
    assert result.latents.kl["shift"] == pytest.approx(float(kl.shift), rel=1e-4)
    assert {"global", "shift", "detail"} <= set(result.latents.kl)
    spread = everything.z_global.numpy().var(0, ddof=1)
    assert result.latents.active_global == int((spread > 0.01).sum())
    detail = everything.detail.numpy().var(0, ddof=1).mean(0)
    assert result.latents.active_detail == int((detail > 0.01).sum())
    whole = everything.detail.flatten(0, 1).numpy().var(0, ddof=1)
    assert pooled_active_units([result])[1] == int((whole > 0.01).sum())


def test_draws_depend_on_seed_and_name_only(case):
    network = make_network().eval()
    with torch.no_grad():
        first, _ = generate(network, case, SETTINGS, None)
        chunked, _ = generate(network, case, dataclasses.replace(SETTINGS, chunk=1), None)
        other, _ = generate(network, case, dataclasses.replace(SETTINGS, seed=1), None)
    for mode in MODES:
        torch.testing.assert_close(first[mode], chunked[mode], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(first[mode], other[mode], atol=1e-2)


def test_the_prior_knows_the_template_and_nothing_of_the_other_models(case):
    network = make_network().eval()
    ensemble, central = case.prepared.ensemble, case.prepared.central
    spoiled = torch.randn(ensemble.coordinates.shape, generator=torch.Generator())
    spoiled[central] = ensemble.coordinates[central]
    other = dataclasses.replace(
        case,
        prepared=dataclasses.replace(
            case.prepared, ensemble=dataclasses.replace(ensemble, coordinates=spoiled)
        ),
    )
    with torch.no_grad():
        first, second = (generate(network, c, SETTINGS, None)[0] for c in (case, other))
    assert torch.equal(first["prior"], second["prior"])
    assert not torch.allclose(first["ensemble"], second["ensemble"], atol=1e-2)


def test_everything_generated_goes_through_the_finisher(case):
    network = make_network()
    plain, x = evaluate_case(network, case, SETTINGS, None)
    marked, y = evaluate_case(network, case, SETTINGS, unfinished)
    for mode in MODES:
        torch.testing.assert_close(y[mode], 2 * x[mode])
    assert torch.equal(y["real"], x["real"])
    assert marked.reconstruction != plain.reconstruction
    assert marked.reconstruction_free != plain.reconstruction_free


# -- tables and files --------------------------------------------------------------------------


def head(protein: str, group: str = "known") -> dict[str, object]:
    return {
        "protein": protein, "group": group, "residues": 30, "core": 20, "given": 8, "judged": 2,
    }  # fmt: skip


def test_a_table_has_the_means_over_proteins_real_beside_generated(case):
    good, bad = (score_conformers(x, case) for x in (case.coordinates, noisy(case, 0.4)))
    rows = [
        conformer_row(head("a"), "real", good),
        conformer_row(head("b"), "real", good),
        conformer_row(head("a"), "prior", bad),
        conformer_row(head("b"), "prior", dataclasses.replace(bad, core=None)),
    ]
    assert mean(rows[2:], "min_rmsd_c") == pytest.approx(bad.core.min_rmsd)
    assert mean(rows, "min_rmsd_a") == pytest.approx((good.all.min_rmsd + bad.all.min_rmsd) / 2)
    table = metric_table(rows, {"real": "REAL", "ensemble": "ENSEMBLE", "prior": "PRIOR"})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["", "REAL", "PRIOR"]  # no empty column for what was not run
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert cells["residues inside 4 sd"][0] == "1"
    assert float(cells["minRMSD all, Å"][1]) == pytest.approx(bad.all.min_rmsd, rel=0.01)
    assert cells["seconds per conformer"] == ["–", "–"]


def test_reconstruction_shows_the_distribution_over_proteins():
    rows = [
        reconstruction_row(
            head(str(i)), "template", Reconstruction((math.nan,), (x, x + 0.2), (x,), (x,))
        )
        for i, x in enumerate((0.1, 0.2, 0.9))
    ]
    last = reconstruction_table(rows).splitlines()[-1].split("|")
    assert last[1].strip() == "template"
    assert last[3].strip() == "–"
    assert last[4].strip() == "0.5, 0.3, 1"  # of the proteins' means 0.2, 0.3, 1.0


def test_json_lines_hold_no_nan():
    scores = ConformerScores(
        2, None, score_conformers(torch.randn(2, 26, 3, 3), make_cases(make_ensemble("x"))[0]).all,
        {"left_chirality": math.nan}, math.nan,
    )  # fmt: skip
    line = to_json_lines([conformer_row(head("a"), "real", scores)])
    row = json.loads(line, parse_constant=lambda text: pytest.fail(text))
    assert row["left_chirality"] is None
    assert row["seconds"] is None


def test_a_run_writes_report_rows_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = "alpha", "gamma", "beta"
    cases = make_cases(*(make_ensemble(n) for n in names), unseen=("beta",))
    projection = geometry_finisher(options=FinishOptions(steps=0))
    rows = evaluate(make_network(), cases, SETTINGS, tmp_path, projection)
    written = [
        json.loads(line) for line in (tmp_path / "evaluation.jsonl").read_text().splitlines()
    ]
    assert written == rows
    kinds = [(r["protein"], r["kind"], r.get("method")) for r in rows]
    assert len(kinds) == len(set(kinds)) == 3 * (3 + 2 + 1 + 1)
    text = (tmp_path / "evaluation.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "Known proteins, held-out models (2)" in text
    assert "Unseen proteins (1)" in text
    assert text.count("| real | generated, ensemble | generated, prior |") == 2
    # One protein of each group has figures; the latent map is of all.
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("traces", "rmsf", "ramachandran", "distances", "effects")
    assert names == {f"{p}_{k}.png" for p in ("alpha", "beta") for k in kinds} | {"latents.png"}
    assert all((tmp_path / "figures" / n).read_bytes()[:4] == b"\x89PNG" for n in names)
    inside = [r["inside"] for r in rows if r.get("method") in MODES]
    assert min(inside) > 0.9
    effects = [json.loads(x) for x in (tmp_path / "latent_effects.jsonl").read_text().splitlines()]
    assert [r["protein"] for r in effects] == ["alpha"] * 10 + ["beta"] * 10
    by_hand = [r["rms"] for r in effects if (r["latent"], r["size"]) == ("shift", 2.0)]
    line = next(x for x in text.splitlines() if x.startswith("| shift | ±2 sd of the prior |"))
    assert float(line.split("|")[3]) == pytest.approx(sum(by_hand) / 2, rel=0.01)


def test_rows_of_a_case_carry_every_number(case):
    result, _ = evaluate_case(make_network(), case, SETTINGS, None)
    rows = case_rows(result)
    named = {row["kind"]: row for row in rows}
    assert set(named) == {"conformers", "reconstruction", "sequence", "latents"}
    assert named["latents"]["kl_global"] == result.latents.kl["global"]
    assert named["sequence"]["without_sequence"] == result.sequence.without_sequence
    text = report(rows)
    assert "Unseen" not in text
    assert "alpha" in text
