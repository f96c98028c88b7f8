"""Parts of a slide for cross-fitting."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_ipa.geometry.blocks import spatial_blocks


def test_parts_are_contiguous_and_none_is_missing() -> None:
    xy = np.random.default_rng(0).uniform(0, 100, (600, 2))
    part = spatial_blocks(xy, 20)
    assert set(part) == set(range(20))
    centres = np.stack([xy[part == b].mean(axis=0) for b in range(20)])
    nearest = ((xy[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == part).mean() > 0.95


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (2, 2), (15, 2), (40, 5), (1000, 30)])
def test_parts_hold_eight_cells_on_average_and_are_at_least_two(n: int, parts: int) -> None:
    xy = np.random.default_rng(0).uniform(0, 1, (n, 2))
    assert spatial_blocks(xy).max() + 1 == parts


def test_pose_does_not_matter() -> None:
    xy = np.random.default_rng(0).uniform(0, 1, (300, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_array_equal(spatial_blocks(50 * xy @ turn + 7, 10), spatial_blocks(xy, 10))
