"""Training draws and held-out items: pairs, balance, purity, ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from protein_ensembles import ENSEMBLES, KNOWN, TENSORS, UNSEEN

from common.rng import numpy_generator_for
from common.training.sampler import DrawSampler
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.draws import HeldOutItems, TrainingDraws
from protein_cvae.data.prepared import (
    PreparedEnsemble,
)
from protein_cvae.data.settings import DrawSettings


def same(first: ProteinBatch, second: ProteinBatch) -> bool:
    return first.names == second.names and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS
    )


def template_models(item: ProteinBatch) -> list[int]:
    """Which model each template is, found by its coordinates; -1 where it is withheld."""
    found = []
    for i in range(len(item)):
        models = ENSEMBLES[int(item.protein[i])].coordinates
        template = item.template[i, : models.shape[1]]
        hits = [j for j in range(len(models)) if torch.equal(models[j], template)]
        assert len(hits) == int(item.template_mask[i].any())
        found.append(hits[0] if hits else -1)
    return found


def training_draws(
    ensembles: list[PreparedEnsemble],
    length: int,
    k: int = 2,
    per_step: int = 1,
    template_dropout: float = 0.0,
    sequence_dropout: float = 0.0,
    seed: int = 0,
    central: float = 0.0,
) -> TrainingDraws:
    """Draws of one process."""
    settings = DrawSettings(
        batch_proteins=per_step,
        models_per_protein=k,
        central_templates=central,
        template_dropout=template_dropout,
        sequence_dropout=sequence_dropout,
        per_epoch=length,
        seed=seed,
    )
    return TrainingDraws(ensembles, settings)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_items_are_training_models_with_another_training_model_as_template(k: int) -> None:
    draws = training_draws(KNOWN, 40, k)
    for index in range(80):
        item = draws[index]
        item.check()
        assert len(item) == k
        assert len(set(item.names)) == 1  # several models of one protein together
        prepared = KNOWN[int(item.protein[0])]
        models = item.model.tolist()
        assert len(set(models)) == k
        for i, (model, template) in enumerate(zip(models, template_models(item), strict=True)):
            assert model in prepared.given
            assert template in prepared.given
            assert template != model
            assert torch.equal(item.coordinates[i], prepared.ensemble.coordinates[model])
            assert torch.equal(item.template_mask[i], prepared.ensemble.mask[template])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_central_model_is_the_template_of_the_told_share_and_never_its_own(share: float):
    plain, ours = training_draws(KNOWN, 300, 2), training_draws(KNOWN, 300, 2, central=share)
    central = []
    for index in range(300):
        item, middle = ours[index], KNOWN[int(ours[index].protein[0])].central
        pairs = zip(
            item.model.tolist(), template_models(item), template_models(plain[index]), strict=True
        )
        for model, template, other in pairs:
            assert template != model
            if model != middle and other != middle:
                central.append(template == middle)
                assert template in (middle, other)
    # More than 400 independent items: five standard deviations are 0.115 at 0.3.
    assert len(central) > 400
    assert np.mean(central) == pytest.approx(share, abs=0.12 * (0 < share < 1))


def test_every_template_occurs() -> None:
    draws = training_draws(KNOWN[:1], 200, 1)
    pairs = {(int(draws[i].model[0]), template_models(draws[i])[0]) for i in range(len(draws))}
    train = KNOWN[0].given
    assert pairs == {(a, b) for a in train for b in train if a != b}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dropout_withholds_the_told_share_and_changes_nothing_else(share: float) -> None:
    plain = training_draws(KNOWN, 300, 2)
    dropped = training_draws(KNOWN, 300, 2, template_dropout=share, sequence_dropout=share)
    shown, spoken = [], []
    for index in range(300):
        ours, theirs = dropped[index], plain[index]
        assert torch.equal(ours.model, theirs.model)
        kept = ours.template_mask.any(1)
        assert torch.equal(ours.template[kept], theirs.template[kept])
        assert (ours.template[~kept] == 0).all()
        shown += kept.tolist()
        spoken += ours.sequence_mask.tolist()
    # 600 independent items: five standard deviations are 0.094 at 0.3.
    assert np.mean(shown) == pytest.approx(1 - share, abs=0.1 * (0 < share < 1))
    assert np.mean(spoken) == pytest.approx(1 - share, abs=0.1 * (0 < share < 1))
    assert share in (0.0, 1.0) or shown != spoken


def test_proteins_are_drawn_equally_often_and_every_training_model_is_encoded() -> None:
    k, length = 3, 10
    draws = training_draws(KNOWN, length, k)
    largest = max(len(e.given) for e in KNOWN)
    epochs = -(-len(KNOWN) * -(-largest // k) // length)
    items = [draws[i] for i in range(epochs * length)]
    counts = Counter(item.names[0] for item in items)
    assert max(counts.values()) - min(counts.values()) <= 1
    encoded = {(item.names[0], m) for item in items for m in item.model.tolist()}
    assert encoded == {(e.ensemble.name, m) for e in KNOWN for m in e.given}


def test_models_of_one_protein_are_drawn_equally_often() -> None:
    draws = training_draws(KNOWN[1:2], 20, 2)
    train = KNOWN[1].given
    counts = Counter(m for t in range(5 * len(train)) for m in draws.models(t))
    assert set(counts) == set(train)
    assert max(counts.values()) == min(counts.values())


def test_draws_are_those_of_the_rule_written_out() -> None:
    draws = training_draws(KNOWN, 24, 3, 1, 0.3, 0.3, seed=5, central=0.4)
    for index in range(72):
        epoch, i = divmod(index, 24)
        t = int(draws.order(epoch)[i])
        given, middle = KNOWN[t % len(KNOWN)].given, KNOWN[t % len(KNOWN)].central
        cycle, group = divmod(t // len(KNOWN), -(-len(given) // 3))
        order = numpy_generator_for(5, 1, t % len(KNOWN), cycle).permutation(len(given))
        models = [given[order[(3 * group + j) % len(given)]] for j in range(3)]
        generator, templates = numpy_generator_for(5, 2, t), []
        for model in models:
            others = [other for other in given if other != model]
            chosen = others[int(generator.integers(len(others)))]
            if generator.random() < 0.4 and model != middle:
                chosen = middle
            hidden, _ = generator.random() < 0.3, generator.random()
            templates.append(-1 if hidden else chosen)
        assert draws[index].model.tolist() == models
        assert template_models(draws[index]) == templates


def test_an_item_depends_on_seed_and_index_alone() -> None:
    first, second = (training_draws(KNOWN, 24, 2, 4, 0.3, 0.3, seed=7) for _ in range(2))
    backwards = {i: second[i] for i in reversed(range(72))}
    assert all(same(first[i], backwards[i]) for i in range(72))
    other = training_draws(KNOWN, 24, 2, 4, 0.3, 0.3, seed=8)
    assert not all(same(first[i], other[i]) for i in range(24))
    assert first.order(0).tolist() != (first.order(1) - 24).tolist()


@pytest.mark.parametrize(("per_step", "length"), [(1, 24), (4, 24), (4, 26), (8, 100)])
def test_an_epoch_holds_each_of_its_draws_once(per_step: int, length: int) -> None:
    draws = training_draws(KNOWN, length, 2, per_step)
    for epoch in range(3):
        wanted = range(epoch * length, (epoch + 1) * length)
        assert sorted(draws.order(epoch).tolist()) == list(wanted)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_each_step_of_one_process(world: int) -> None:
    length, per_step = 32, 8
    draws = training_draws(KNOWN, length, 2, per_step, 0.2, 0.2)

    def steps(rank: int, world: int) -> list[list[int]]:
        sampler = DrawSampler(length, world, rank)
        sampler.set_epoch(3)
        mine, size = list(sampler), per_step // world
        return [mine[i : i + size] for i in range(0, len(mine), size)]

    alone = steps(0, 1)
    ranks = [steps(rank, world) for rank in range(world)]
    assert {len(r) for r in ranks} == {len(alone)}
    for b, whole in enumerate(alone):
        parts = [index for rank in ranks for index in rank[b]]
        assert sorted(parts) == sorted(whole)
    assert not same(draws[ranks[0][0][0]], draws[ranks[1][0][0]])


def test_steps_hold_proteins_of_similar_length() -> None:
    per_step = 4
    draws = training_draws(KNOWN, 256, 1, per_step)
    lengths = np.array([KNOWN[t % len(KNOWN)].ensemble.length for t in draws.order(0)])
    shuffled = np.random.default_rng(0).permutation(lengths)

    def padded(values: np.ndarray) -> float:
        return float(values.reshape(-1, per_step).max(1).sum() * per_step / values.sum())

    assert padded(lengths) < 1.1 < 1.2 < padded(shuffled)
    # Steps are not sorted among themselves.
    assert (np.diff(lengths.reshape(-1, per_step).max(1)) < 0).sum() > 10


def test_known_proteins_are_judged_on_held_out_models_with_a_training_template() -> None:
    items = HeldOutItems(KNOWN)
    got = {(items[i].names[0], int(items[i].model[0])) for i in range(len(items))}
    assert got == {(e.ensemble.name, m) for e in KNOWN for m in e.judged}
    for i in range(len(items)):
        prepared = KNOWN[int(items[i].protein[0])]
        assert template_models(items[i]) == [prepared.central]
        assert prepared.central in prepared.given
        assert bool(items[i].sequence_mask.all())


def test_unseen_proteins_are_judged_on_all_models_but_the_template() -> None:
    items = HeldOutItems(UNSEEN)
    models = [int(items[i].model[0]) for i in range(len(items))]
    assert sorted([*models, UNSEEN[0].central]) == list(range(6))
    assert {t for i in range(len(items)) for t in template_models(items[i])} == {UNSEEN[0].central}


@pytest.mark.parametrize("per_protein", [None, 2])
def test_each_protein_has_equal_weight_and_filling_has_none(per_protein: int | None) -> None:
    items = HeldOutItems(KNOWN, per_protein)
    totals = dict.fromkeys("abcd", 0.0)
    for i in range(len(items)):
        totals[items[i].names[0]] += float(items[i].weight)
    np.testing.assert_allclose(list(totals.values()), len(items) / 4, rtol=1e-6)
    filling = items[len(items)]
    assert float(filling.weight) == 0
    assert torch.equal(filling.coordinates, items[0].coordinates)
    if per_protein:
        assert len(items) == sum(min(2, len(e.judged)) for e in KNOWN)


def test_batches_of_different_proteins_are_valid() -> None:
    draws = training_draws(KNOWN, 16, 2, 4)
    batch = collate([draws[i] for i in range(4)])
    batch.check()
    assert len(batch) == 8


@pytest.mark.parametrize(
    ("ensembles", "k", "message"),
    [([], 2, "at least one ensemble"), (KNOWN, 5, r"too few in a \(4\): lower it")],
)
def test_too_little_data_is_refused(
    ensembles: list[PreparedEnsemble], k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training_draws(ensembles, 8, k)
