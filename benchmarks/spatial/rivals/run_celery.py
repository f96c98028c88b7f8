"""CeLEry (Zhang et al., Nat. Commun. 14:4050, 2023): a perceptron from expression to coordinates.

Settings of its tutorial: genes standardised slide by slide, layers of 30, 25 and 15, at most 500
epochs, batches of 4, learning rate 1e-4 that is halved after 15 epochs without progress.  It takes
one reference, so the training slides are put together as they lie in their files.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from protocol import Answer, Slice, Task, affordable, drive, epoch_seconds

EPOCHS = 500


def standardised(part: Slice) -> np.ndarray:
    """(n, G) float32 of mean 0 and variance 1 per gene; a gene that does not vary is 0."""
    values = part.logged()
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def solve(task: Task, source: Path | None) -> Answer:
    import CeLEry
    import pandas as pd
    import torch
    from anndata import AnnData

    torch.set_num_threads(1)
    reference = AnnData(np.concatenate([standardised(part) for part in task.train]))
    xy = pd.DataFrame(np.concatenate([p.positions() for p in task.train]), columns=["x", "y"])

    def fit(epochs: int) -> float:
        start = time.process_time()
        CeLEry.Fit_cord(
            data_train=reference, location_data=xy, hidden_dims=[30, 25, 15],
            num_epochs_max=epochs, path="model", filename="coordinates", num_workers=0,
            seednum=task.seed,
        )  # fmt: skip
        return time.process_time() - start

    epochs = affordable(EPOCHS, epoch_seconds(fit), task.budget_s)
    train_s = fit(epochs)
    start = time.process_time()
    found = [
        CeLEry.Predict_cord(AnnData(standardised(p)), path="model", filename="coordinates")
        for p in task.test
    ]
    # Each axis was brought to [0, 1] by the range of the training slides, widened by 1 a side.
    low, high = xy.to_numpy().min(axis=0) - 1, xy.to_numpy().max(axis=0) + 1
    layouts = {"": [low + np.asarray(x) * (high - low) for x in found]}
    predict_s = time.process_time() - start
    return Answer(layouts, train_s, predict_s, epochs, EPOCHS, f"CeLEryPy {version('CeLEryPy')}")


if __name__ == "__main__":
    drive(solve)
