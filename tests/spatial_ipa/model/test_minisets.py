"""Minisets: pure in (seed, index), balanced over slides, disturbed as the augmentation says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.minisets import Augmentation, Miniset, MinisetDataset, build_miniset, collate
from spatial_ipa.model.targets import gate_target

D = 6


def make_slide(name: str, n: int, seed: int = 0) -> EmbeddedSlide:
    """Embeddings whose first column is the spot's number, so that a draw shows what it took."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, D)).astype(np.float32)
    h[:, 0] = np.arange(n)
    return EmbeddedSlide(name, h, rng.random((n, 2)).astype(np.float32))


SLIDES = [make_slide("a", 90, 0), make_slide("b", 130, 1), make_slide("c", 70, 2)]


def make_dataset(
    seed: int = 0, num_rows: int | None = None, augmentation: Augmentation | None = None
) -> MinisetDataset:
    return MinisetDataset(SLIDES, 12, 30, 60, 10, seed, num_rows, augmentation)


def tensors(item: Miniset) -> dict[str, torch.Tensor]:
    """Everything in a miniset, flat."""
    found = {"h": item.h, "wanted": item.wanted}
    if item.start_noise is not None:
        found["start_noise"] = item.start_noise
    for name, value in {"candidates": item.candidates, **item.target.__dict__}.items():
        if isinstance(value, EdgeList):
            found |= {f"{name}.{part}": getattr(value, part) for part in ("src", "dst", "ptr")}
        else:
            found[name] = value
    return found


def assert_equal(a: Miniset, b: Miniset) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_a_draw_depends_on_seed_and_index_alone(augmentation: Augmentation | None) -> None:
    dataset = make_dataset(0, 16, augmentation)
    first = [dataset[i] for i in (4, 9, 5)]
    torch.manual_seed(123)  # the global generator has no say
    again = make_dataset(0, 16, augmentation)
    for index, item in zip((5, 9, 4), reversed(first), strict=True):
        assert_equal(again[index], item)


def test_other_seeds_and_indices_draw_other_spots() -> None:
    """Indices 0, 3 and 6 share a slide: only the draw can differ."""
    taken = [
        tuple(make_dataset(seed)[index].h[:, 0].tolist())
        for seed, index in ((0, 0), (0, 3), (0, 6), (1, 0), (1, 3))
    ]
    assert len(set(taken)) == len(taken)


def test_indices_far_beyond_the_length_are_served() -> None:
    dataset = make_dataset()
    assert len(dataset) == 12
    assert 30 <= len(dataset[2**40 + 1].h) <= 60


def test_sizes_cover_the_bounds_and_nodes_are_distinct_spots_of_the_slide() -> None:
    dataset = MinisetDataset(SLIDES[:1], 1, 30, 33, 5)
    sizes: Counter[int] = Counter()
    for index in range(60):
        item = dataset[index]
        rows = item.h[:, 0].long()
        assert bool((rows[1:] > rows[:-1]).all())
        assert torch.equal(item.h, torch.from_numpy(SLIDES[0].h)[rows])
        sizes[len(rows)] += 1
    # Each of four sizes is expected 15 times, with standard deviation 3.4.
    assert set(sizes) == {30, 31, 32, 33}
    assert min(sizes.values()) >= 3


def test_coordinates_belong_to_the_embeddings() -> None:
    item = make_dataset()[1]
    xy = torch.from_numpy(SLIDES[1].xy)[item.h[:, 0].long()]
    centred = xy - xy.mean(0)
    torch.testing.assert_close(
        item.target.xy, centred / centred.square().sum(1).mean().sqrt(), rtol=1e-5, atol=1e-5
    )


def test_slides_are_taken_in_turn() -> None:
    dataset = make_dataset()
    for index in range(9):
        item = dataset[index]
        slide = SLIDES[index % 3]
        assert torch.equal(item.h, torch.from_numpy(slide.h)[item.h[:, 0].long()]), index


def test_a_small_slide_is_taken_whole() -> None:
    item = MinisetDataset(SLIDES[2:], 1, 100, 200, 10)[0]
    assert torch.equal(item.h, torch.from_numpy(SLIDES[2].h))


def test_memory_mapped_embeddings_draw_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", SLIDES[0].h)
    mapped = replace(SLIDES[0], h=np.load(tmp_path / "h.npy", mmap_mode="r"))
    assert_equal(
        MinisetDataset([mapped], 1, 30, 60, 10)[3], MinisetDataset(SLIDES[:1], 1, 30, 60, 10)[3]
    )


def test_num_rows_limits_the_walks_only() -> None:
    sampled, full = make_dataset(0, 16)[2], make_dataset(0, None)[2]
    assert len(sampled.target.rows) == 16
    assert len(full.target.rows) == len(full.h)
    assert torch.equal(sampled.h, full.h)


def test_candidates_are_at_most_all_others() -> None:
    item = build_miniset(
        torch.randn(20, D, generator=torch.Generator().manual_seed(0)),
        torch.rand(20, 2, generator=torch.Generator().manual_seed(1)),
        100,
        torch.Generator().manual_seed(2),
    )
    assert item.candidates.in_degree.tolist() == [19] * 20


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_collate_is_the_disjoint_union(augmentation: Augmentation | None) -> None:
    """Each member can be cut out of the batch unchanged, whichever others it came with."""
    dataset = make_dataset(0, 16, augmentation)
    for indices in ((0, 1, 2), (2, 7, 0, 1)):
        items = [dataset[i] for i in indices]
        batch = collate(items)
        assert batch.num_graphs == len(items)
        start = 0
        for b, item in enumerate(items):
            n = len(item.h)
            nodes = slice(start, start + n)
            assert torch.equal(batch.h[nodes], item.h)
            assert torch.equal(batch.target.xy[nodes], item.target.xy)
            assert torch.equal(batch.target.scale[nodes], item.target.scale)
            assert bool((batch.target.graph[nodes] == b).all())
            assert batch.target.steps[b] == item.target.steps[0]
            for mine, whole in (
                (item.candidates, batch.candidates),
                (item.target.edges, batch.target.edges),
            ):
                inside = (whole.dst >= start) & (whole.dst < start + n)
                assert torch.equal(whole.edge_index[:, inside] - start, mine.edge_index)
            inside = (batch.candidates.dst >= start) & (batch.candidates.dst < start + n)
            assert torch.equal(batch.wanted[inside], item.wanted)
            for name in ("pairs", "random_pairs"):
                pairs = getattr(batch.target, name)
                inside = (pairs[0] >= start) & (pairs[0] < start + n)
                assert torch.equal(pairs[:, inside] - start, getattr(item.target, name))
            rows = batch.target.rows
            inside = (rows >= start) & (rows < start + n)
            assert torch.equal(rows[inside] - start, item.target.rows)
            if item.start_noise is None:
                assert batch.start_noise is None
            else:
                assert batch.start_noise is not None
                assert torch.equal(batch.start_noise[nodes], item.start_noise)
            start += n
        assert start == len(batch.h)


def big_item(n: int = 400, d: int = 60) -> Miniset:
    generator = torch.Generator().manual_seed(0)
    return build_miniset(
        1 + torch.randn(n, d, generator=generator), torch.rand(n, 2, generator=generator), 50,
        generator, 8,
    )  # fmt: skip


def test_noise_has_the_stated_spread() -> None:
    item = big_item()
    moved = Augmentation(noise_h=0.3, dropout_h=0.0, drop_edges=0.0)(
        item, torch.Generator().manual_seed(1)
    )
    noise = moved.h - item.h
    m = noise.numel()  # 24,000 entries; bounds are five standard errors
    assert abs(noise.mean()) < 5 * 0.3 / m**0.5
    assert abs(noise.std() - 0.3) < 5 * 0.3 / (2 * m) ** 0.5
    assert torch.equal(moved.candidates.src, item.candidates.src)


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    item = big_item()
    moved = Augmentation(noise_h=0.0, dropout_h=0.1, drop_edges=0.0)(
        item, torch.Generator().manual_seed(1)
    )
    dropped = moved.h == 0
    m = moved.h.numel()
    assert abs(dropped.float().mean() - 0.1) < 5 * (0.1 * 0.9 / m) ** 0.5
    torch.testing.assert_close(moved.h[~dropped], item.h[~dropped] / 0.9)
    # h (K - p) / p has variance h^2 (1 - p) / p at p = 0.9.
    error = (item.h.square().sum() * 0.1 / 0.9).sqrt() / m
    assert abs(moved.h.mean() - item.h.mean()) < 5 * error


def test_all_of_it_together_leaves_the_mean_unbiased() -> None:
    """Averaged over draws, each entry is the clean one within its own sampling error."""
    item, augment = big_item(100, 10), Augmentation()
    draws = torch.stack([augment(item, torch.Generator().manual_seed(i)).h for i in range(400)])
    z = (draws.mean(0) - item.h) / (draws.std(0) / 20)
    assert z.abs().max() < 5.5  # of 1,000 entries; 5.5 has room for the estimated error
    assert abs(z.mean()) < 5 / z.numel() ** 0.5


def test_edges_are_dropped_at_their_rate_and_wanted_stays_with_them() -> None:
    item = big_item()
    moved = Augmentation(noise_h=3.0, drop_edges=0.2)(item, torch.Generator().manual_seed(1))
    n, m = len(item.h), item.candidates.num_edges
    share = 1 - moved.candidates.num_edges / m
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / m) ** 0.5
    clean = knn_edges(item.h, 50)
    all_keys, keys = (e.dst * n + e.src for e in (clean, moved.candidates))
    assert bool(torch.isin(keys, all_keys).all()), "an edge that the clean graph does not have"
    # At this noise the graph of the disturbed embeddings would be another one.
    noisy = knn_edges(moved.h, 50)
    assert torch.isin(noisy.dst * n + noisy.src, all_keys).float().mean() < 0.8
    assert torch.equal(moved.wanted, gate_target(item.target, moved.candidates))
    assert moved.wanted.shape == (moved.candidates.num_edges,)
    assert bool((moved.wanted > 0).any())


def test_row_pointer_of_the_kept_edges_is_right() -> None:
    moved = Augmentation(drop_edges=0.9)(big_item(), torch.Generator().manual_seed(1)).candidates
    rebuilt = EdgeList.from_edge_index(moved.edge_index, moved.num_nodes)
    assert torch.equal(moved.ptr, rebuilt.ptr)


def test_start_noise_is_standard_normal_and_only_in_training() -> None:
    item = big_item()
    assert item.start_noise is None
    assert make_dataset()[0].start_noise is None
    noise = Augmentation()(item, torch.Generator().manual_seed(1)).start_noise
    assert noise is not None
    assert noise.shape == (400, 2)
    assert abs(noise.mean()) < 5 / 800**0.5
    assert abs(noise.std() - 1) < 5 / 1600**0.5


def test_targets_are_not_augmented() -> None:
    item, augmented = make_dataset()[1], make_dataset(augmentation=Augmentation())[1]
    for name in ("xy", "scale", "pairs", "random_pairs", "rows"):
        assert torch.equal(getattr(item.target, name), getattr(augmented.target, name)), name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("noise_h", -0.1, "noise_h must not be negative, got -0.1"),
        ("dropout_h", 1.0, r"dropout_h must lie in \[0, 1\), got 1.0"),
        ("dropout_h", -0.1, "dropout_h"),
        ("drop_edges", 1.0, "drop_edges"),
    ],
)
def test_bad_augmentation(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Augmentation(), **{name: value})


def test_bad_dataset_arguments() -> None:
    with pytest.raises(ValueError, match="at least one slide"):
        MinisetDataset([], 1)
    for low, high in ((7, 20), (30, 20)):
        with pytest.raises(ValueError, match=f"got {low} and {high}"):
            MinisetDataset(SLIDES, 1, low, high)
    h = SLIDES[0].h.copy()
    h[4, 2] = np.nan
    with pytest.raises(ValueError, match="slide a: embeddings hold NaN"):
        MinisetDataset([replace(SLIDES[0], h=h)], 1)
