"""Levels of noise, and what depends on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from protein_cvae.model.rate import SILENT, RateSettings, expected_error, left_over, levels


def test_what_is_left_over_is_the_noise_where_there_is_little_and_1_angstrom_where_much():
    levels = torch.tensor([[3e-3, 4e-3], [0.75, 1.0], [0.02, SILENT], [0.02, 0.02]]).double()
    found = left_over(levels, torch.tensor([True, True, True, False]))
    wanted = [0.005 / math.sqrt(1 + 25e-6), 1.25 / math.sqrt(1 + 1.5625), 1.0, 1.0]
    assert found.tolist() == pytest.approx(wanted, rel=1e-3)


def test_levels_are_log_uniform_and_a_share_is_silent():
    rate = RateSettings(low=0.05, high=0.8, silent=0.25)
    generator = torch.Generator().manual_seed(0)
    drawn = levels(torch.randn(4000, 3, generator=generator, dtype=torch.float64), rate)
    silent = drawn[:, 1] == SILENT
    share = float(silent.double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    for values in (drawn[:, 0], drawn[~silent, 1]):
        uniform = (values / 0.05).log() / math.log(0.8 / 0.05)
        assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    # Both noises and silence are independent.
    assert abs(np.corrcoef(drawn[~silent].log().numpy().T)[0, 1]) < 5 / math.sqrt(3000)


def test_errors_count_less_where_noise_makes_them_and_fully_without_template():
    s = torch.tensor([[1e-6, 1e-6], [0.2, 0.0], [1.0, 30.0], [1.0, 30.0]], dtype=torch.float64)
    found = expected_error(s, torch.tensor([True, True, True, False]))
    wanted = torch.tensor([1.0, 0.5, 0.04 / 2.04, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "rate.low and rate.high"),
        ({"low": 0.5, "high": 0.4}, "rate.low and rate.high"),
        ({"high": 31.0}, "rate.low and rate.high"),
        ({"silent": -0.1}, "rate.silent"),
        ({"silent": 1.1}, "rate.silent"),
        ({"judged": 0.0}, "rate.judged"),
        ({"judged": 31.0}, "rate.judged"),
    ],
)
def test_rates_out_of_range_are_refused(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        RateSettings(**options)
