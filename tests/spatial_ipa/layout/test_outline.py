"""Proportions of layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from true_layouts import points, random_poses, whole

from spatial_ipa.layout.outline import aspect_ratio, towards_outline
from spatial_ipa.layout.placement import consensus


def principal_widths(xy: torch.Tensor) -> np.ndarray:
    return np.linalg.svd((xy - xy.mean(0)).numpy(), compute_uv=False)


@pytest.mark.parametrize(("aspect", "share"), [(0.8, 0.5), (0.8, 1.0), (0.2, 0.5), (0.8, 0.0)])
def test_outline_moves_the_aspect_ratio_by_its_share(aspect: float, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = points(200) @ torch.tensor([[1.0, 0.3], [0.0, 0.4]])
    draws = draws + 0.05 * torch.randn(4, 200, 2, generator=generator)
    before = consensus(draws)
    after = towards_outline(before, aspect, share)
    own = principal_widths(before.xy)[1] / principal_widths(before.xy)[0]
    found = principal_widths(after.xy)[1] / principal_widths(after.xy)[0]
    assert aspect_ratio(before.xy) == pytest.approx(own, rel=1e-5)
    assert found == pytest.approx(own ** (1 - share) * aspect**share, rel=1e-4)
    assert after.xy.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)
    # One linear map without rotation: symmetric, the same for the draws.
    change = torch.linalg.lstsq(before.xy - before.xy.mean(0), after.xy).solution
    torch.testing.assert_close(change, change.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.draws, before.draws @ change, rtol=1e-3, atol=1e-4)


def test_outline_turns_with_the_layout() -> None:
    placed = whole(points(120) * torch.tensor([1.0, 0.3]), 0.05)
    rotation = random_poses(1, torch.Generator().manual_seed(3))[0][0]
    turned = type(placed)(placed.xy @ rotation.T, placed.draws @ rotation.T)
    expected = towards_outline(placed, 0.7).xy @ rotation.T
    torch.testing.assert_close(towards_outline(turned, 0.7).xy, expected, rtol=1e-4, atol=1e-5)


def test_a_line_is_not_stretched_and_a_wrong_aspect_is_refused() -> None:
    line = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], dim=1)
    placed = consensus(line.expand(2, -1, -1))
    assert torch.equal(towards_outline(placed, 0.7).xy, placed.xy)
    for aspect in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="aspect"):
            towards_outline(placed, aspect)
