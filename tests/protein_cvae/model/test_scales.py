"""The most probable amplitude against SciPy; the mixtures themselves: test_channel.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from protein_modes import best_amplitude

from protein_cvae.model.elastic import AMPLITUDE
from protein_cvae.model.scales import Scales, most_probable_amplitude


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("noise", [1e-6, 0.04])
def test_most_probable_amplitude_is_that_of_scipy(size: float, noise: float):
    """Of one scale, where the density is a plain normal one; absent coefficients do not count."""
    base = torch.tensor([[[2.0], [1.0], [0.3], [0.0]]], dtype=torch.float64)
    z = size * torch.tensor([[1.0, 0.4, -0.3, 5.0]], dtype=torch.float64)
    scales = Scales(base, torch.zeros_like(base))
    found = most_probable_amplitude(z, scales, torch.full_like(z, noise), 0.5, -0.3)

    def cost(a: float) -> float:
        v = base[0, :3, 0].numpy() * math.exp(2 * AMPLITUDE * a) + noise
        nats = float(0.5 * (np.log(v) + z[0, :3].numpy() ** 2 / v).sum())
        return nats + ((a - 0.5) / math.exp(-0.3)) ** 2 / 2

    assert float(found) == pytest.approx(best_amplitude(cost, -6.5, 6.5), abs=1e-4)
