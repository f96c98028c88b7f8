"""How much of the tissue neighbourhood each way of training the encoder keeps, on unseen slides.

    python benchmarks/spatial/recall.py --slides 'my/A*.h5ad' --test A1 A6 --seeds 0 1

Each test slide is held out of everything in turn; the other slides train.  Columns: share of the
true k = max(20, int(0.15 n)) spatial neighbours among the c nearest in H (c = 60, 80, 100, 120),
the same at c = k, and what an RBF SVR from H to gauge-fixed coordinates of the training slides
makes of the test slide: Spearman correlation of pairwise distances, and Procrustes RMSE over RMS
radius.  The SVR needs training slides in one pose; else its two columns say nothing.

Without ``--slides`` simulated tissue is used.  Rows are mean ± standard deviation over test slides
and seeds.  The machine, versions and command are printed above the table.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch
from sklearn.svm import SVR

from common.report.machine import describe_machine
from common.training.trainer import quiet_trainer
from spatial_ipa.data.expression import Expression, Transform
from spatial_ipa.data.matrices import HeldRows
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import load_encoder
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import (
    DrawSettings,
    EncoderWeights,
    GeneSettings,
    Start,
    StartSettings,
)
from spatial_ipa.encoder.spatial_pca import principal_components
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.metrics import distance_spearman, procrustes_rmse
from spatial_ipa.geometry.neighbours import neighbour_recall

CANDIDATES = (60, 80, 100, 120)
COLUMNS = (*(f"recall@{c}" for c in CANDIDATES), "recall@k", "SVR Spearman", "SVR RMSE", "s")
_SVR_SPOTS = 3000


@dataclass(frozen=True)
class Condition:
    """One training of the encoder; the weights are those of EncoderModule."""

    name: str
    start: Start
    trained: bool = True
    vicreg: float = 1.0
    neighbours: float = 0.0
    align: float = 0.0


CONDITIONS = (
    Condition("random start: self-supervised", "random"),
    Condition("random start: + spatial", "random", neighbours=1.0),
    Condition("random start: + spatial + alignment", "random", neighbours=1.0, align=1.0),
    Condition("PCA start: self-supervised", "pca"),
    Condition("PCA start: + spatial", "pca", neighbours=1.0),
    Condition("PCA start: + spatial + alignment", "pca", neighbours=1.0, align=1.0),
    Condition("kernel eigenmaps", "eigenmaps", trained=False),
    Condition("spatial PCA start, not trained", "spatial", trained=False),
    Condition("spatial PCA start: self-supervised", "spatial"),
    Condition("spatial PCA start: + spatial", "spatial", neighbours=1.0),
    Condition("spatial PCA start: + spatial + alignment", "spatial", neighbours=1.0, align=1.0),
)


class _InMemory(EncoderDataModule):
    """The same data module over slides that have been read."""

    train_set: Sequence[Slide] = ()
    test_set: Sequence[Slide] = ()

    def setup(self, stage: str) -> None:
        self.declare(self.train_set, self.test_set)


def features_of(
    condition: Condition, data: _InMemory, slides: Sequence[Slide], seed: int, epochs: int
) -> list[np.ndarray]:
    """Train one encoder and embed slides."""
    from_scratch = condition.start == "random"
    with TemporaryDirectory() as folder:
        module = EncoderModule(
            str(Path(folder) / "encoder.pt"),
            StartSettings(condition.start),
            weights=EncoderWeights(
                vicreg=condition.vicreg,
                neighbours=condition.neighbours,
                coral=condition.align,
                anchor=0.0 if from_scratch else 1.0,
            ),
            first_layer_lr=3e-4 if from_scratch else 0.0,
            optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2),
            seed=seed,
        )
        quiet_trainer(epochs if condition.trained else 0).fit(module, datamodule=data)
        encoder = load_encoder(Path(folder) / "encoder.pt")
    return [encoder.embed(slide, "st") for slide in slides]


def pca_features(
    data: _InMemory, slides: Sequence[Slide], rank: int, unit_variance: bool, seed: int
) -> list[np.ndarray]:
    """PCA of the training slides on the same genes, optionally of genes at unit variance."""
    expression = [Expression.of_slide(s, data.panel, data.genes.normalisation) for s in slides]
    num_train = len(data.fit_slides)
    if unit_variance:
        rows = np.concatenate([x.rows(slice(None)) for x in expression[:num_train]])
        square = np.square(rows, dtype=np.float64).mean(axis=0)
        scale = np.where(square > 0, np.sqrt(square), 1.0).astype(np.float32)
        expression = [
            Expression(
                HeldRows(x.values.multiply(1 / scale).tocsr().astype(np.float32)),
                x.mean / scale,
                x.filled,
            )
            for x in expression
        ]
    components = principal_components(expression[:num_train], rank, seed)
    return [x.project(components) for x in expression]


def score(features: Sequence[np.ndarray], slides: Sequence[Slide], seed: int) -> list[float]:
    """The columns but the last for the last slide, the others being the training slides."""
    xy = [np.asarray(s.xy, dtype=np.float64) for s in slides]
    h, n = features[-1], len(slides[-1])
    k = adaptive_k(n)
    row = [neighbour_recall(h, xy[-1], k, min(c, n - 1)) for c in (*CANDIDATES, k)]
    x = np.concatenate(features[:-1])
    y = np.concatenate([gauge_fix_array(a) for a in xy[:-1]])
    chosen = np.random.default_rng(seed).permutation(len(x))[:_SVR_SPOTS]
    predicted = np.stack(
        [SVR(C=1.0).fit(x[chosen], y[chosen, axis]).predict(h) for axis in (0, 1)], axis=1
    )
    return [*row, distance_spearman(predicted, xy[-1]), procrustes_rmse(predicted, xy[-1])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slides", nargs="+", help="files, folders or patterns")
    parser.add_argument("--test", nargs="+", help="names of test slides; default the last")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=10, help="of trained conditions")
    parser.add_argument("--steps", type=int, default=10, help="per epoch")
    parser.add_argument("--spots", type=int, default=384, help="per slide and step")
    parser.add_argument("--num-genes", type=int, help="most variable genes; default all")
    parser.add_argument("--transform", choices=get_args(Transform), default="sqrt")
    parser.add_argument("--only", nargs="+", default=[], help="conditions whose name holds one")
    parser.add_argument("--folder", default="runs/tissue", help="of the simulated tissue")
    given = parser.parse_args(arguments)
    # Once per fit otherwise; nothing of it concerns the figures.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    patterns = given.slides or [
        str(path) for path in ensure_tissue(TissueSpec(), given.folder).slides
    ]
    slides = read_slides(patterns)
    names = given.test or [slides[-1].name]
    unknown = set(names) - {s.name for s in slides}
    if unknown:
        parser.error(f"--test {', '.join(sorted(unknown))} not among the slides")
    print(f"{describe_machine('scikit-learn')}\n{' '.join(arguments or sys.argv)}\n")
    rows: dict[str, list[list[float]]] = {}

    def record(name: str, make: Callable[[], list[np.ndarray]], test: list[Slide]) -> None:
        if given.only and not any(part in name for part in given.only):
            return
        begun = time.perf_counter()
        features = make()
        seconds = time.perf_counter() - begun
        rows.setdefault(name, []).append([*score(features, test, seed), seconds])
        print(f"  {test[-1].name}, seed {seed}: {name}", file=sys.stderr, flush=True)

    for name in names:
        test = [s for s in slides if s.name == name]
        train = [s for s in slides if s.name != name]
        n = len(test[0])
        chance = [min(c / (n - 1), 1.0) for c in (*CANDIDATES, adaptive_k(n))]
        for seed in given.seeds:
            data = _InMemory(
                [], genes=GeneSettings(num_genes=given.num_genes, transform=given.transform),
                draws=DrawSettings(steps_per_epoch=given.steps, spots=given.spots, seed=seed),
            )  # fmt: skip
            data.train_set, data.test_set = train, test
            data.setup("fit")
            every = [*train, *test]
            rows.setdefault("chance", []).append([*chance, 0.0, 1.0, 0.0])
            for rank, unit in ((50, False), (128, False), (50, True), (128, True)):
                record(
                    f"PCA {rank}{', unit variance' if unit else ''}",
                    partial(pca_features, data, every, rank, unit, seed),
                    every,
                )
            for condition in CONDITIONS:
                record(
                    condition.name,
                    partial(features_of, condition, data, every, seed, given.epochs),
                    every,
                )
    print("| " + " | ".join(("encoder", *COLUMNS)) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, values in rows.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[:-1], spread[:-1], strict=True)]
        print("| " + " | ".join((name, *cells, f"{mean[-1]:.1f}")) + " |")


if __name__ == "__main__":
    main()
