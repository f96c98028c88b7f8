"""Gauge of layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatial_ipa.geometry.gauge import gauge_fix


def test_gauge_fix() -> None:
    graph = torch.repeat_interleave(torch.tensor([50, 1, 30]))
    x = torch.randn(81, 2, dtype=torch.float64) * 7 + 3
    fixed = gauge_fix(x, graph, 3)
    for b in (0, 2):
        part = fixed[graph == b].numpy()
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-12)
        assert (part**2).sum(1).mean() == pytest.approx(1, abs=1e-9)
    assert torch.equal(fixed[graph == 1], torch.zeros(1, 2, dtype=torch.float64))
    again = gauge_fix(fixed, graph, 3)
    torch.testing.assert_close(again, fixed, rtol=1e-9, atol=1e-9)
