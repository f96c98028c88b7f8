"""The sampler partitions the draws of every epoch over ranks, and resumes exactly."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from common.rng import generator_for
from common.training.sampler import DrawSampler


class Draws(Dataset[float]):
    """Unbounded: item ``index`` is drawn from the index alone."""

    def __getitem__(self, index: int) -> float:
        return float(torch.rand((), generator=generator_for(0, index)))


def indices(length, world, rank, epoch):
    sampler = DrawSampler(length, world, rank)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("per_rank", [1, 5])
def test_ranks_partition_each_epoch_and_epochs_never_meet(world, per_rank):
    length = world * per_rank
    seen: list[int] = []
    for epoch in range(3):
        parts = [indices(length, world, rank, epoch) for rank in range(world)]
        assert {len(part) for part in parts} == {per_rank}
        seen += [index for part in parts for index in part]
    assert sorted(seen) == list(range(3 * length))


@pytest.mark.parametrize("world", [2, 3])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world):
    per_rank_batch = 2
    length = 4 * per_rank_batch * world
    alone = list(BatchSampler(DrawSampler(length), per_rank_batch * world, drop_last=False))
    parts = [
        list(BatchSampler(DrawSampler(length, world, rank), per_rank_batch, drop_last=False))
        for rank in range(world)
    ]
    together = [
        sorted(index for batch in batches for index in batch)
        for batches in zip(*parts, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_items_do_not_depend_on_workers_and_a_resumed_epoch_continues(workers):
    def epochs(first: int, last: int) -> list[float]:
        sampler = DrawSampler(6)
        loader = DataLoader(Draws(), batch_size=2, sampler=sampler, num_workers=workers)
        items: list[float] = []
        for epoch in range(first, last):
            sampler.set_epoch(epoch)
            items += [float(item) for batch in loader for item in batch]
        return items

    expected = [float(torch.rand((), generator=generator_for(0, index))) for index in range(18)]
    assert epochs(0, 3) == pytest.approx(expected)
    assert epochs(0, 2) + epochs(2, 3) == pytest.approx(expected)


def test_validation_repeats_epoch_zero():
    sampler = DrawSampler(4, 2, 1, advance=False)
    sampler.set_epoch(9)
    assert list(sampler) == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 3), "multiple of the 3 processes, got 10; the next one is 12"),
        ((0, 2), "the next one is 2"),
        ((4, 2, 2), r"rank must lie in \[0, 2\)"),
        ((4, 0), "num_replicas"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DrawSampler(*arguments)


def test_negative_epoch():
    with pytest.raises(ValueError, match="epoch"):
        DrawSampler(4).set_epoch(-1)
