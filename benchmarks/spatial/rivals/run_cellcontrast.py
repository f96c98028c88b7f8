"""CellContrast (Li et al., Patterns 5:101022, 2024): embeddings in which neighbours are alike.

Its parameter file for spots, or for single cells where the task is of imaging; 3,000 epochs of
stochastic gradient descent under a cosine.  ``referenced``: each cell lies where the training spot
of the most similar embedding does.  ``de novo``: metric scaling of the dissimilarities among the
new cells.  Training slides are samples of their own in training, one reference in placing.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from protocol import Answer, Slice, Task, affordable, drive, epoch_seconds
from sources import commit

EPOCHS_ASKED = "training_epoch"


def solve(task: Task, source: Path | None) -> Answer:
    assert source is not None
    sys.path.insert(0, str(source))
    import torch
    from anndata import AnnData, concat
    from cellContrast import inference, train

    torch.set_num_threads(1)
    train.time = SimpleNamespace(sleep=lambda seconds: None)  # it rests 0.1 s after every epoch
    kind = "singleCell" if task.imaging else "spot"
    given = source / "parameters" / f"parameters_{kind}.json"
    parameters = json.loads(given.read_text())
    asked = parameters[EPOCHS_ASKED]

    def data(part: Slice, name: str) -> AnnData:
        found = AnnData(part.logged())
        found.obs_names = [f"{name}_{i}" for i in range(len(found))]
        if part.xy is not None:
            found.obs["x"], found.obs["y"], found.obs["embryo"] = *part.xy.T, name
        return found

    reference = concat([data(part, str(i)) for i, part in enumerate(task.train)])

    def fit(epochs: int) -> tuple[torch.nn.Module, float]:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(task.seed)
        Path("parameters.json").write_text(json.dumps({**parameters, EPOCHS_ASKED: epochs}))
        options = SimpleNamespace(parameter_file_path="parameters.json", save_folder=".")
        start = time.process_time()
        return train.train_model(options, reference.copy()), time.process_time() - start

    each = epoch_seconds(lambda epochs: fit(epochs)[1])
    epochs = affordable(asked, each, task.budget_s)
    model, train_s = fit(epochs)
    start = time.process_time()
    layouts: dict[str, list[np.ndarray]] = {"referenced": [], "de novo": []}
    for i, part in enumerate(task.test):
        found = inference.perform_inference(data(part, f"test {i}"), reference, model, True)
        for way, xy in layouts.items():
            xy.append(np.column_stack([found.uns[f"{way} x"], found.uns[f"{way} y"]]))
    predict_s = time.process_time() - start
    return Answer(layouts, train_s, predict_s, epochs, asked, f"CellContrast {commit(source)}")


if __name__ == "__main__":
    drive(solve)
