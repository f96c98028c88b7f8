"""What is sent to a rival and what comes back: arrays in .npz files, read without pickle.

A rival's driver (``run_*.py``) is run by the rival's own Python, in a folder of its own:

    PYTHON run_stem.py TASK.npz ANSWER.npz [CHECKOUT]

This module needs NumPy alone, so both sides import it.  The coordinates of the slides to be
predicted are in no task.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Slice:
    """Expression of n spots on G genes.

    Attributes:
        counts: (n, G) float32.
        sizes: (n,) float32 total counts of each spot, also on genes that are not among the G.
        xy: (n, 2) float64 in the file's unit, mean 0; None where it is to be predicted.
    """

    counts: np.ndarray
    sizes: np.ndarray
    xy: np.ndarray | None = None

    def logged(self, target: float | None = None) -> np.ndarray:
        """(n, G) float32 log(1 + target x / size); the target is the median size if not given."""
        sum_to = float(np.median(self.sizes)) if target is None else target
        scaled = self.counts * (sum_to / np.maximum(self.sizes, 1.0))[:, None]
        return np.log1p(scaled, dtype=np.float32)

    def positions(self) -> np.ndarray:
        """Its coordinates.

        Raises:
            ValueError: of a slide to be predicted.
        """
        if self.xy is None:
            raise ValueError("the coordinates of this slide are to be predicted")
        return self.xy


@dataclass(frozen=True, eq=False)
class Task:
    """One fold with one seed.

    Attributes:
        train: slides to train on, with coordinates.
        test: slides to predict, without.
        seed: of everything the rival draws.
        budget_s: CPU seconds its training may take; other work on the machine does not enter.
        imaging: each spot is a cell on a targeted panel, not a mixture on a whole transcriptome.
    """

    train: Sequence[Slice]
    test: Sequence[Slice]
    seed: int
    budget_s: float
    imaging: bool

    def write(self, path: Path) -> None:
        arrays = {
            "seed": np.int64(self.seed),
            "budget_s": np.float64(self.budget_s),
            "imaging": np.bool_(self.imaging),
            "num": np.array([len(self.train), len(self.test)]),
        }
        for kind, slices in (("train", self.train), ("test", self.test)):
            for i, part in enumerate(slices):
                arrays |= {f"{kind}_{i}_counts": part.counts, f"{kind}_{i}_sizes": part.sizes}
                if kind == "train":
                    arrays[f"train_{i}_xy"] = part.positions()
        np.savez(path, **arrays)

    @staticmethod
    def read(path: Path) -> Task:
        with np.load(path, allow_pickle=False) as file:

            def parts(kind: str, num: int) -> list[Slice]:
                return [
                    Slice(
                        file[f"{kind}_{i}_counts"],
                        file[f"{kind}_{i}_sizes"],
                        file[f"{kind}_{i}_xy"] if kind == "train" else None,
                    )
                    for i in range(num)
                ]

            num_train, num_test = file["num"].tolist()
            return Task(
                parts("train", num_train),
                parts("test", num_test),
                int(file["seed"]),
                float(file["budget_s"]),
                bool(file["imaging"]),
            )


@dataclass(frozen=True, eq=False)
class Answer:
    """What a rival made of a task.

    Attributes:
        layouts: (n, 2) of each test slide in order, by how they were obtained; one way is ``""``.
        train_s: CPU seconds of training, without the trial that its length was chosen by.
        predict_s: CPU seconds of everything after it.
        epochs: trained.
        epochs_asked: what its authors train.
        version: of the rival's package, or the commit of its checkout.
    """

    layouts: dict[str, list[np.ndarray]]
    train_s: float
    predict_s: float
    epochs: int
    epochs_asked: int
    version: str

    def write(self, path: Path) -> None:
        arrays = {
            f"xy_{way}_{i}": np.asarray(xy, dtype=np.float64)
            for way, layouts in self.layouts.items()
            for i, xy in enumerate(layouts)
        }
        figures = {
            "train_s": np.float64(self.train_s),
            "predict_s": np.float64(self.predict_s),
            "epochs": np.int64(self.epochs),
            "epochs_asked": np.int64(self.epochs_asked),
            "version": np.str_(self.version),
        }
        np.savez(path, **arrays, **figures)

    @staticmethod
    def read(path: Path) -> Answer:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith("xy_")]
            ways = dict.fromkeys(name[3:].rpartition("_")[0] for name in names)
            layouts = {
                way: [file[f"xy_{way}_{i}"] for i in range(_num(names, way))] for way in ways
            }
            return Answer(
                layouts,
                float(file["train_s"]),
                float(file["predict_s"]),
                int(file["epochs"]),
                int(file["epochs_asked"]),
                str(file["version"]),
            )


def _num(names: Sequence[str], way: str) -> int:
    return sum(name[3:].rpartition("_")[0] == way for name in names)


def affordable(asked: int, seconds: float, budget_s: float, least: int = 1) -> int:
    """Epochs of ``seconds`` each that fit the budget: ``asked`` at most, ``least`` at least."""
    return max(least, min(asked, int(budget_s / max(seconds, 1e-6))))


def epoch_seconds(fit: Callable[[int], float]) -> float:
    """CPU seconds of one more epoch, from trials; the first pays for what is prepared once.

    Args:
        fit: trains so many epochs from the start and returns the CPU seconds of it.
    """
    once = fit(1)
    return max((fit(3) - once) / 2, 1e-3)


def spacing(xy: np.ndarray) -> float:
    """Median distance of a spot of (n, 2) coordinates to the nearest other one."""
    nearest = []
    for block in np.array_split(xy, -(-len(xy) // 256)):
        squared = ((block[:, None] - xy[None]) ** 2).sum(axis=2)
        nearest.append(np.partition(squared, 1, axis=1)[:, 1])  # the first is the spot itself
    return float(np.sqrt(np.median(np.concatenate(nearest))))


def drive(solve: Callable[[Task, Path | None], Answer]) -> None:
    """Run a driver on the files its command line names."""
    task, answer, *checkout = sys.argv[1:]
    source = Path(checkout[0]) if checkout else None
    solve(Task.read(Path(task)), source).write(Path(answer))
