"""STEM (Hao et al., Commun. Biol. 7:56, 2024): spots and cells in one space, mapped to each other.

Settings of its README and of its notebook on replicates: learning rate 0.002, alpha 0.8, kernels
half the spacing of the spots wide, 1,000 cells for the alignment of the two distributions, dropout
by the ratio of genes found, 400 epochs, training slides one after another.  A cell's position is
the mean of the reference's under its mapping, and the mean over the training slides.

It is fitted with the expression of the slides to be predicted: transductive.
"""

from __future__ import annotations

import random
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from protocol import Answer, Task, affordable, drive, epoch_seconds, spacing
from torch import Tensor

EPOCHS = 400
LEAST = 60  # one of its losses is ramped in from epoch 50 on


class Discrepancy(torch.nn.Module):
    """Maximum mean discrepancy under five Gaussian kernels, each twice as wide as the one before.

    The same number as STEM's own ``MMDLoss``, from a matrix product: that one holds the difference
    of every two embeddings, (n + m)^2 x 128 numbers, which takes minutes per epoch on a CPU.
    """

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        both = torch.cat([source, target])
        size = (both**2).sum(dim=1)
        squared = (size[:, None] + size - 2 * both @ both.T).clamp(min=0)
        n, total = len(source), len(both)
        width = squared.detach().sum() / (total**2 - total) / 4
        kernel = sum((torch.exp(-squared / (width * 2**i)) for i in range(5)), torch.zeros(()))
        cross = kernel[:n, n:].mean() + kernel[n:, :n].mean()
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - cross


def solve(task: Task, source: Path | None) -> Answer:
    from STEM.model import SOmodel

    torch.set_num_threads(1)
    spots = [torch.from_numpy(part.logged()) for part in task.train]
    xy = [torch.from_numpy(part.positions()).float() for part in task.train]
    cells = torch.cat([torch.from_numpy(part.logged()) for part in task.test])
    genes_of_spots, genes_of_cells = (
        np.median(np.concatenate([(p.counts > 0).sum(axis=1) for p in parts]))
        for parts in (task.train, task.test)
    )
    options = SimpleNamespace(
        device="cpu", outf="log", n_genes=cells.shape[1], no_bn=False, lr=0.002,
        sigma=float(np.mean([spacing(part.positions()) for part in task.train])) / 2,
        alpha=0.8, verbose=False, mmdbatch=1000,
        # Cells with more genes than the spots would ask for less than none.
        dp=float(max(0.0, 1 - genes_of_cells / genes_of_spots)),
    )  # fmt: skip

    def fit(epochs: int) -> tuple[SOmodel, float]:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(task.seed)
        model = SOmodel(options)
        model.mmd_fn = Discrepancy()
        start = time.process_time()
        model.train_wholedata(epochs, cells, spots, xy)
        return model, time.process_time() - start

    each = epoch_seconds(lambda epochs: fit(epochs)[1])
    epochs = affordable(EPOCHS, each, task.budget_s, LEAST)
    model, train_s = fit(epochs)
    start = time.process_time()
    model.modeleval()
    with torch.no_grad():
        embedded = model.netE(cells)
        mapped = [torch.softmax(embedded @ model.netE(s).T, dim=1) @ x for s, x in zip(spots, xy)]  # noqa: B905 Python 3.9
    layout = torch.stack(mapped).mean(dim=0).numpy()
    cuts = np.cumsum([len(part.counts) for part in task.test])[:-1]
    layouts = {"": np.split(layout, cuts)}
    predict_s = time.process_time() - start
    return Answer(layouts, train_s, predict_s, epochs, EPOCHS, f"scSTEM {version('scSTEM')}")


if __name__ == "__main__":
    drive(solve)
