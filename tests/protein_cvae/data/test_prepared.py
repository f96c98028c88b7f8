"""What the models of an ensemble share: core, centre, positions, embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protein_ensembles import ENSEMBLES, PREPARED, SPLIT, make_ensemble
from scipy.spatial.transform import Rotation

from protein_cvae.data.prepared import (
    PreparedEnsemble,
    central_model,
    joined_embedding,
    residue_positions,
)
from protein_cvae.ensemble import Ensemble


def test_core_and_centre_do_not_see_held_out_models() -> None:
    ensemble, entry = ENSEMBLES[1], SPLIT.entries[1]
    spoiled = ensemble.coordinates.clone()
    noise = torch.randn(spoiled.shape, generator=torch.Generator().manual_seed(0))
    for i in entry.heldout:
        spoiled[i] = 10 * noise[i]
    other = Ensemble(**{**vars(ensemble), "coordinates": spoiled})
    again = PreparedEnsemble.build(1, other, entry.train, entry.heldout)
    assert torch.equal(again.core, PREPARED[1].core)
    assert again.central == PREPARED[1].central
    # ... which would have mattered.
    assert PREPARED[1].core.any()
    assert PreparedEnsemble.build(1, other, (), range(12)).core.sum() < PREPARED[1].core.sum()


def test_of_many_models_evenly_spaced_ones_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, given = ENSEMBLES[2], list(range(2, 20))
    monkeypatch.setattr("protein_cvae.data.prepared._MOST", 6)
    found = PreparedEnsemble.build(0, ensemble, given)
    monkeypatch.undo()
    few = PreparedEnsemble.build(0, ensemble, given[::3])
    # A residue that any given model lacks is in no core.
    assert torch.equal(found.core, few.core & ensemble.mask[given].all(0))
    assert not torch.equal(found.core, few.core)
    models = ensemble.select_models(given[::3])
    place = central_model(models.coordinates, models.mask, found.core)
    assert found.central == given[::3][place]


def test_centre_is_the_medoid_by_pairwise_superposition() -> None:
    rng = np.random.default_rng(3)
    base = 4 * rng.normal(size=(40, 3)).cumsum(0)
    scales = np.array([1.5, 1.0, 0.1, 1.2, 0.8, 1.4])
    models = base + scales[:, None, None] * rng.normal(size=(6, 40, 3))
    models = np.stack([Rotation.random(random_state=i).apply(m) + i for i, m in enumerate(models)])
    centred = models - models.mean(1, keepdims=True)
    squares = [sum(Rotation.align_vectors(a, b)[1] ** 2 for b in centred) for a in centred]
    coordinates = torch.zeros(6, 40, 3, 3)
    coordinates[:, :, 1] = torch.tensor(models)
    everywhere = torch.ones(6, 40, dtype=torch.bool)
    found = central_model(coordinates, everywhere, torch.zeros(40, dtype=torch.bool))
    assert found == int(np.argmin(squares)) == 2


def test_centre_of_models_without_common_residues_is_the_most_complete_one() -> None:
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, :4], mask[1, 4:10], mask[2, 9:] = True, True, True
    assert central_model(torch.zeros(3, 12, 3, 3), mask, mask[0]) == 1


def test_positions_count_missing_residues_where_numbers_tell() -> None:
    ensemble = make_ensemble("x", 8, 3, 0)
    bonded = torch.tensor([1, 0, 1, 0, 0, 0, 1, 0], dtype=torch.bool)
    chain = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    # A gap of three residues, a break where numbers fall, chain B with a break and no gap.
    numbers = torch.tensor([5, 6, 10, 11, 2, 40, 41, 42])
    changed = Ensemble(
        **{
            **vars(ensemble),
            "bonded": bonded,
            "chain_index": chain,
            "chain_ids": ("A", "B"),
            "residue_numbers": numbers,
        }
    )
    assert residue_positions(changed).tolist() == [0, 1, 5, 6, 7, 0, 1, 2]


def test_embedding_rows_go_to_the_residues_of_their_chain() -> None:
    ensemble = make_ensemble("x", 5, 5, 0)
    chain = torch.tensor([0, 0, 1, 1, 1])
    bonded = torch.zeros(5, dtype=torch.bool)
    two = Ensemble(
        **{**vars(ensemble), "chain_index": chain, "chain_ids": ("A", "B"), "bonded": bonded}
    )
    rows = torch.arange(10.0).view(5, 2)
    assert torch.equal(joined_embedding([rows[:2], rows[2:]], two), rows)
    item = PreparedEnsemble.build(0, two, SPLIT.entries[0].train, embedding=rows).item(0, 1)
    assert torch.equal(item.embedding[0], rows)
    with pytest.raises(ValueError, match=r"embedding of x: expected \(5, D\), got \(4, 2\)"):
        PreparedEnsemble.build(0, two, SPLIT.entries[0].train, embedding=rows[:4])
