"""Blocks of frames: whole, apart, the same whoever asks, and recorded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from protein_ensembles import make_ensemble

from protein_cvae.data.division import divide
from protein_cvae.data.settings import SplitSettings, TimeBlocks
from protein_cvae.data.splits import EnsembleSplit

LONG = make_ensemble("long", 20, 103, 0)


def names(count: int) -> list[str]:
    return [f"{i:016x}" for i in range(count)]


@pytest.mark.parametrize("total", [40, 103, 1000])
@pytest.mark.parametrize(("count", "gap"), [(2, 0.0), (7, 0.1), (10, 0.5), (10, 0.0)])
@pytest.mark.parametrize("seed", range(4))
def test_held_out_frames_are_whole_blocks_with_gaps(
    total: int, count: int, gap: float, seed: int
) -> None:
    train, heldout = divide("x", names(total), 0.3, seed, TimeBlocks(count, gap))
    edges = [total * i // count for i in range(count + 1)]
    blocks = [set(range(a, b)) for a, b in pairwise(edges)]
    out = [block for block in blocks if block & set(heldout)]
    assert set(heldout) == set().union(*out)
    assert len(out) == max(1, round(0.3 * count))
    assert list(train) == sorted(train)
    assert list(heldout) == sorted(heldout)
    distance = {i: min(abs(i - j) for j in heldout) for i in range(total)}
    size = min(map(len, out))
    assert min(distance[i] for i in train) > gap * size
    # ... and nothing is left out beyond the gap.
    largest = max(map(len, out))
    assert {i for i in range(total) if distance[i] > gap * largest + 1} <= set(train)
    assert gap or sorted(train + heldout) == list(range(total))


def test_blocks_depend_on_seed_name_and_their_number_alone() -> None:
    blocks = TimeBlocks(10)
    chosen = {
        (name, seed): tuple(i // 20 for i in divide(name, names(200), 0.2, seed, blocks)[1][::20])
        for name in "ab"
        for seed in range(6)
    }
    assert len(set(chosen.values())) > 6
    again = divide("a", names(200), 0.2, 3, blocks)
    assert again == divide("a", [f"other {i}" for i in range(200)], 0.2, 3, blocks)


@pytest.mark.parametrize("taken", [50, 100, 137])
@pytest.mark.parametrize("seed", range(3))
def test_a_thinned_trajectory_judges_no_frame_that_all_of_it_trained_on(
    taken: int, seed: int
) -> None:
    blocks, total = TimeBlocks(10, 0.1), 5000
    train, heldout = divide("x", names(total), 0.2, seed, blocks)
    places = [round(i * (total - 1) / (taken - 1)) for i in range(taken)]  # as max_frames takes
    _, judged = divide("x", [names(total)[i] for i in places], 0.2, seed, blocks)
    assert {places[i] for i in judged}.isdisjoint(train)
    assert len({places[i] for i in judged} & set(heldout)) > 0.8 * len(judged)


def test_copies_of_held_out_frames_are_in_neither_part() -> None:
    hashes = names(100)
    _, heldout = divide("x", hashes, 0.2, 0, TimeBlocks(10))
    far = next(i for i in range(100) if all(abs(i - j) > 5 for j in heldout))
    hashes[far] = hashes[heldout[0]]
    train, again = divide("x", hashes, 0.2, 0, TimeBlocks(10))
    assert again == heldout
    assert far not in train


def test_without_a_share_nothing_is_held_out() -> None:
    assert divide("x", names(50), 0.0, 0, TimeBlocks(5)) == (tuple(range(50)), ())


def test_blocks_are_in_the_record_and_change_nothing_without() -> None:
    blocks = TimeBlocks(5, 0.2)
    split = EnsembleSplit.declare([LONG], blocks=blocks)
    record = split.to_dict()
    assert (record["version"], record["blocks"]) == (2, {"count": 5, "gap": 0.2})
    again = EnsembleSplit.from_dict(record)
    assert again == split
    again.check_same(split)
    plain = EnsembleSplit.declare([LONG])
    assert set(plain.to_dict()) == {"entries", "seed", "held_out_fraction", "families", "version"}
    assert plain.to_dict()["version"] == 1
    assert EnsembleSplit.from_dict(plain.to_dict()) == plain
    with pytest.raises(ValueError, match=r"blocks TimeBlocks\(count=0"):
        split.check_same(plain)
    with pytest.raises(ValueError, match="also a training model of long"):
        plain.check_use(split)
    with pytest.raises(ValueError, match="damaged"):
        EnsembleSplit.from_dict({**record, "blocks": {"number": 5}})


@pytest.mark.parametrize(
    ("fraction", "blocks", "message"),
    [
        (0.2, TimeBlocks(60), "103 models, too few for 60 blocks"),
        (0.9, TimeBlocks(3, 1.0), "leave 0 to train on"),
    ],
)
def test_too_few_models_are_refused(fraction: float, blocks: TimeBlocks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleSplit.declare([LONG], held_out_fraction=fraction, blocks=blocks)


@pytest.mark.parametrize("wrong", [{"count": 1}, {"count": -2}, {"gap": 1.5}, {"gap": -0.1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"blocks\.{next(iter(wrong))}"):
        SplitSettings(blocks=TimeBlocks(**wrong))  # type: ignore[arg-type]
