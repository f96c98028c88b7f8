"""Loaders of minisets, their settings, and the context of a training."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.training.loader import DrawLoader
from common.training.sampler import DrawSampler
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.model.minisets import Augmentation, Miniset
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.training.datamodule import MinisetDataModule, SlideDataModule
from spatial_ipa.training.settings import MinisetSettings


def learnable_slide(name: str, n: int = 150, seed: int = 0) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the coordinates plus two columns of noise."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    waves = [f(np.pi * xy) for f in (np.sin, np.cos)]
    h = np.concatenate([2 * xy - 1, *waves, 0.3 * rng.standard_normal((n, 2))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), xy.astype(np.float32))


def datamodule(world: int, rank: int, batch_size: int = 2) -> MinisetDataModule:
    """A data module of 10 training draws and 2 x 3 validation draws, as rank ``rank`` sees it.

    Args:
        world: number of processes.
        rank: this process.
        batch_size: minisets per batch.
    """
    settings = MinisetSettings(
        per_epoch=10, val_per_slide=3, batch_size=batch_size, size_min=30, size_max=40,
        num_candidates=10, num_rows=12,
    )  # fmt: skip
    slides = [learnable_slide(name, 60, seed) for seed, name in enumerate("abcd")]
    module = MinisetDataModule(slides[:2], slides[2:], settings)
    module.trainer = cast(pl.Trainer, SimpleNamespace(world_size=world, global_rank=rank))
    return module


def drawn(loader: object) -> list[int]:
    assert isinstance(loader, DataLoader)
    assert loader.sampler is not None
    return list(loader.sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_equal_counts_and_different_draws(world: int) -> None:
    """10 training draws on 3 ranks are rounded up to 12; 6 validation draws fit all."""
    modules = [datamodule(world, rank) for rank in range(world)]
    for loaders, total, needed in (
        ([m.train_dataloader() for m in modules], {1: 10, 2: 10, 3: 12}[world], 10),
        ([m.val_dataloader() for m in modules], 6, 6),
    ):
        parts = [drawn(loader) for loader in loaders]
        assert {len(part) for part in parts} == {total // world}
        assert len({len(cast(DataLoader[Miniset], loader)) for loader in loaders}) == 1
        assert sorted(index for part in parts for index in part) == list(range(total))
        assert total >= needed


def test_scaling_by_batch_gives_every_step_the_draws_of_one_process() -> None:
    """12 draws, 4 in a step of all processes."""

    def steps(world: int) -> list[list[int]]:
        parts = []
        for rank in range(world):
            module = datamodule(world, rank)
            module.settings = replace(module.settings, per_epoch=12, batch_size=4, scaling="batch")
            loader = module.train_dataloader()
            assert loader.batch_sampler is not None
            parts.append([list(batch) for batch in loader.batch_sampler])
            assert module.rate_factor == 1.0
        return [sorted(chain(*step)) for step in zip(*parts, strict=True)]

    assert steps(1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert steps(2) == steps(4) == steps(1)


def test_a_batch_that_processes_cannot_share_is_refused_before_slides_are_read() -> None:
    data = SlideDataModule(
        ["absent.h5ad"], [], minisets=MinisetSettings(batch_size=4, scaling="batch")
    )
    data.trainer = cast(pl.Trainer, SimpleNamespace(world_size=3, global_rank=0))
    with pytest.raises(ValueError, match=r"4 draws of a step \(minisets.batch_size\) among 3"):
        data.prepare_data()


def test_batches_hold_what_the_dataset_draws() -> None:
    module = datamodule(2, 1)
    dataset = module.train_dataset()
    batches = list(module.train_dataloader())
    assert [b.num_graphs for b in batches] == [2, 2, 1]
    wanted = [dataset[i] for i in (1, 3, 5, 7, 9)]
    assert torch.equal(torch.cat([b.h for b in batches]), torch.cat([m.h for m in wanted]))
    assert all(b.start_noise is not None for b in batches)
    assert {len(m.target.rows) for m in wanted} == {12}


def test_validation_is_clean_complete_and_the_same_in_every_epoch() -> None:
    loader = cast(DataLoader[Miniset], datamodule(1, 0).val_dataloader())
    early = list(loader)
    cast(DrawSampler, loader.sampler).set_epoch(7)  # as Lightning does
    late = list(loader)
    for a, b in zip(early, late, strict=True):
        assert torch.equal(a.h, b.h)
        assert a.start_noise is None
        assert len(a.target.rows) == len(a.h)
    slides = datamodule(1, 0).val
    known = torch.from_numpy(np.concatenate([s.h for s in slides]))
    for row in early[0].h:
        assert bool((known == row).all(1).any()), "not an unchanged row of a validation slide"


def test_validation_does_not_repeat_training_draws() -> None:
    """The same slides in both roles: the seeds differ, so the subsets do."""
    module = datamodule(1, 0)
    module.settings = replace(module.settings, augmentation=Augmentation(0.0, 0.0, 0.0))
    module.val = module.train
    first = next(iter(module.train_dataloader()))
    other = next(iter(cast(DataLoader[Miniset], module.val_dataloader())))
    assert first.h.shape != other.h.shape or not torch.equal(first.h, other.h)


@pytest.mark.parametrize(("epoch", "batches", "start"), [(0, 0, 0), (1, 0, 10), (2, 3, 26)])
def test_a_resumed_loader_starts_in_its_epoch_where_it_was(
    epoch: int, batches: int, start: int
) -> None:
    loader = cast(DrawLoader[Miniset], datamodule(1, 0).train_dataloader())
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "batches": batches})
    loader.draws.set_epoch(epoch)
    found = torch.cat([batch.h for batch in loader])
    dataset = datamodule(1, 0).train_dataset()
    wanted = torch.cat([dataset[i].h for i in range(start, 10 * epoch + 10)])
    assert torch.equal(found, wanted)


def test_starts_of_validation_slides_are_those_of_the_last_frame_and_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, computed = datamodule(1, 0), []
    plain = FrameRegression.averaged

    def counted(frame: FrameRegression, h: np.ndarray, seed: int = 0) -> np.ndarray:
        computed.append(frame)
        return plain(frame, h, seed)

    monkeypatch.setattr(FrameRegression, "averaged", counted)
    first, last = (cross_fit([slide])[0] for slide in module.train)
    module.start_at(first)  # as a module with a context does, before its checkpoint is loaded
    module.start_at(last)
    for _ in range(2):
        batches = list(module.val_dataloader())
        starts = {tuple(row) for slide in module.val for row in plain(last, slide.h).round(4)}
        for batch in batches:
            assert batch.start is not None
            assert {tuple(row) for row in batch.start.double().numpy().round(4)} <= starts
    assert computed == [last, last]  # two slides


def test_without_validation_slides_there_is_no_loader() -> None:
    module = datamodule(1, 0)
    module.val = []
    assert module.val_dataloader() == []


@pytest.mark.parametrize(
    "name", ["per_epoch", "val_per_slide", "batch_size", "num_candidates", "num_rows"]
)
def test_bad_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(MinisetSettings(), **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(("size_min", "size_max"), [(90, 80), (7, 80)])
def test_bad_sizes_are_refused_where_they_are_given(size_min: int, size_max: int) -> None:
    with pytest.raises(ValueError, match=rf"8 <= size_min <= size_max, got {size_min} and 80"):
        MinisetSettings(size_min=size_min, size_max=size_max)


def test_context_describes_the_settings() -> None:
    data = datamodule(2, 0)
    context = data.context
    assert context.aspect is not None
    assert replace(context, aspect=None) == PlacementContext(None, 10, 40, Augmentation().noise_h)
    # The ratio of singular values of the centred coordinates, geometric mean over slides.
    ratios = []
    for slide in data.train:
        values = np.linalg.svd(slide.xy - slide.xy.mean(0), compute_uv=False)
        ratios.append(values[1] / values[0])
    assert context.aspect == pytest.approx(np.sqrt(ratios[0] * ratios[1]), rel=1e-6)
