"""SC2Spa (Liao, Patel, Won, bioRxiv 2023.08.22.554277): a deep perceptron to polar coordinates.

Settings of its notebooks: six layers from 4,096 to 4 units, l1 1e-5, dropout 0.05, at most 500
epochs; batches of 16 up to 1,000 training spots (with l2 1e-4, olfactory bulb), of 128 up to 10,000
(Visium brain), of 4,096 beyond (Slide-seqV2).  Polar coordinates are those of the file's corner, so
that angles stay within a quarter turn, which is all they can express.
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from protocol import Answer, Task, affordable, drive, epoch_seconds

EPOCHS = 500


def solve(task: Task, source: Path | None) -> Answer:
    import tensorflow as tf
    from SC2Spa import pp, tl

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # Keras 3.15 does not guess that a loss of its own name is to fall.
    tl.ReduceLROnPlateau = partial(tl.ReduceLROnPlateau, mode="min")
    expression = np.concatenate([part.logged(1e4) for part in task.train])
    xy = np.concatenate([part.positions() for part in task.train])
    xy = xy - xy.min(axis=0) + 1.0
    polar = pp.PolarTrans(xy)
    target = pp.MinMaxNorm(polar, polar)
    # With a seed given it takes the rows in their order, slide by slide.
    order = np.random.default_rng(task.seed).permutation(len(xy))
    batch, l2 = next(
        b[1:] for b in ((1e3, 16, 1e-4), (1e4, 128, 0), (1e9, 4096, 0)) if len(xy) < b[0]
    )

    def fit(epochs: int) -> tuple[tf.keras.Model, float]:
        tf.keras.utils.set_random_seed(task.seed)
        start = time.process_time()
        model = tl.Train(
            expression[order], target[order], epoch=epochs, batch_size=batch, l2_reg=l2,
            loss=tl.rmse, loss_name="rmse", save=False, seed=task.seed,
        )  # fmt: skip
        return model, time.process_time() - start

    each = epoch_seconds(lambda epochs: fit(epochs)[1])
    epochs = affordable(EPOCHS, each, task.budget_s)
    model, train_s = fit(epochs)
    start = time.process_time()
    layouts = {
        "": [
            pp.RePolarTrans(pp.ReMMNorm(polar, tl.BatchPredict(model, part.logged(1e4))))
            for part in task.test
        ]
    }
    predict_s = time.process_time() - start
    return Answer(layouts, train_s, predict_s, epochs, EPOCHS, f"SC2Spa {version('SC2Spa')}")


if __name__ == "__main__":
    drive(solve)
