"""Schedules as tables: exact values at the corners and between."""

import math

import pytest

from common.training.schedules import cosine_decay, cyclical, linear_ramp, ramp_reached


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.0), (1, 0.05), (2, 0.10), (3, 0.15), (5, 0.25), (6, 0.3), (7, 0.3), (100, 0.3)],
)
def test_ramp_of_the_recipe(epoch, expected):
    """Epoch 0 without the term, then six epochs to the cap 0.3."""
    assert linear_ramp(epoch, start=0, length=6, cap=0.3) == pytest.approx(expected, abs=1e-15)
    assert ramp_reached(epoch, start=0, length=6) == (expected == 0.3)


@pytest.mark.parametrize(
    ("epoch", "start", "length", "expected"),
    [
        (4, 5, 2, 0.0),
        (5, 5, 2, 0.0),
        (6, 5, 2, 1.0),
        (7, 5, 2, 2.0),
        (3, 3, 0, 0.0),
        (4, 3, 0, 2.0),
    ],
)
def test_ramp_start_and_step(epoch, start, length, expected):
    assert linear_ramp(epoch, start, length, cap=2.0) == expected
    assert ramp_reached(epoch, start, length) == (expected == 2.0)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 5e-4),
        (25, 1e-5 + 4.9e-4 * (1 + math.sqrt(0.5)) / 2),
        (50, 2.55e-4),
        (75, 1e-5 + 4.9e-4 * (1 - math.sqrt(0.5)) / 2),
        (100, 1e-5),
        (1000, 1e-5),
    ],
)
def test_cosine(step, expected):
    assert cosine_decay(step, 100, 5e-4, 1e-5) == pytest.approx(expected, rel=1e-12)


def test_cosine_agrees_with_torch():
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17, eta_min=0.01)
    for step in range(18):
        assert cosine_decay(step, 17, 0.1, 0.01) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("step", "expected"),
    # four cycles of ten steps, the first half of each rising
    [(0, 0.0), (1, 0.2), (4, 0.8), (5, 1.0), (9, 1.0), (10, 0.0), (13, 0.6), (39, 1.0), (40, 1.0)],
)
def test_cyclical(step, expected):
    assert cyclical(step, total=40, cycles=4, ramp=0.5) == pytest.approx(expected)
    assert cyclical(step, total=40, cycles=4, ramp=0.5, cap=3.0) == pytest.approx(3 * expected)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: linear_ramp(0, 0, -1, 1.0), "length"),
        (lambda: cosine_decay(0, 0, 1.0, 0.0), "total"),
        (lambda: cosine_decay(-1, 5, 1.0, 0.0), "step"),
        (lambda: cyclical(0, 3, cycles=4), "cycles"),
        (lambda: cyclical(0, 10, ramp=0.0), "ramp"),
        (lambda: cyclical(-1, 10), "step"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
