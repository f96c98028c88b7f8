"""What is done to the rows of a slide, against loops over rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatial_ipa.encoder.slide_features import slide_features


def raw(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw features and which rows have counts: all but two."""
    h = torch.randn(n, 6, generator=torch.Generator().manual_seed(0)) + 3
    filled = torch.ones(n, dtype=torch.bool)
    filled[[2, 9]] = False
    return h, filled


@pytest.mark.parametrize("smooth", [0, 5])
def test_rows_are_centred_scaled_and_averaged_with_their_nearest(smooth: int) -> None:
    h, filled = raw()
    x = h.numpy().astype(np.float64)[filled.numpy()]
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = x.copy()
    for i in range(len(x)) if smooth else ():
        nearest = np.argsort(np.square(x - x[i]).sum(axis=1))[: smooth + 1]  # itself first
        expected[i] = (x[i] + x[nearest].mean(axis=0)) / 2
        expected[i] /= np.linalg.norm(expected[i])
    found = slide_features(h, filled, smooth).numpy()
    np.testing.assert_allclose(found[filled.numpy()], expected, atol=1e-5)
    assert not found[~filled.numpy()].any()


def test_large_slides_are_smoothed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell among the nearest of its part; every cell is in one."""
    h, filled = raw(61)
    whole, plain = slide_features(h, filled, 3), slide_features(h, filled, 0)
    monkeypatch.setattr("spatial_ipa.encoder.slide_features._PART", 20)
    parts = slide_features(h, filled, 3)
    assert not torch.equal(parts, whole)
    assert ((parts - plain).norm(dim=1)[filled] > 0).all()
    monkeypatch.setattr("spatial_ipa.encoder.slide_features._PART", 59)
    assert torch.equal(slide_features(h, filled, 3), whole)


@pytest.mark.parametrize("num_filled", [0, 1, 2])
def test_slides_with_hardly_a_cell_stay_finite(num_filled: int) -> None:
    h = raw()[0][:4]
    found = slide_features(h, torch.arange(4) < num_filled, 10)
    assert torch.isfinite(found).all()
    assert found.shape == h.shape
