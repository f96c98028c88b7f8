"""Means over batches: items count by their weights, fillers not at all."""

from __future__ import annotations

import math

import torch

from protein_cvae.evaluation.validation import WeightedMeans


def test_batches_count_by_their_weights() -> None:
    means = WeightedMeans(torch.device("cpu"))
    for value, weight in ((1.0, 1.0), (4.0, 3.0), (100.0, 0.0)):
        means.update({"loss": torch.tensor(value)}, torch.tensor(weight))
    assert means.compute() == {"loss": torch.tensor(3.25)}


def test_what_is_no_number_is_shown() -> None:
    means = WeightedMeans(torch.device("cpu"))
    means.update({"loss": torch.tensor(torch.nan)}, torch.tensor(1.0))
    means.update({"loss": torch.tensor(2.0)}, torch.tensor(1.0))
    assert math.isnan(means.compute()["loss"])
