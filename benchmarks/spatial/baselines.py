"""What simple rivals reach on one slide, trained on others.

    python benchmarks/spatial/baselines.py --train A1.h5ad A2.h5ad --test A3.h5ad [--rotate]

Prints one row per rival with every figure of ``spatial_ipa.evaluation.scorer.SlideScorer``.
``--rotate`` turns, and may mirror, every training slide at random; ``--register`` brings them into
one frame again by expression.  Layouts of other methods are scored beside them under the same
definition with ``--layout name=file.npy``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.report.machine import describe_machine
from common.report.tables import markdown_table, number
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.read import read_slides
from spatial_ipa.evaluation.baselines.regression import BASELINES, pca_features, predict
from spatial_ipa.evaluation.scorer import SCORES, SlideScorer


def random_pose(xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn (n, 2) coordinates by a uniform angle about the origin; mirror them half of the time."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return xy @ turn * np.array([1.0, rng.choice([-1.0, 1.0])])


def compare(
    train: Sequence[str],
    test: str,
    *,
    rivals: Sequence[str],
    rotate: bool = False,
    register: bool = False,
    seed: int = 0,
    dim: int = 50,
    num_genes: int = 5000,
    num_minisets: int = 50,
    layouts: dict[str, np.ndarray] | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics and seconds of every rival, and of given layouts (n, 2) of the test slide."""
    slides = read_slides([*train, test], min_spots=1)
    panel = gene_panel(slides)
    expression = [normalise(reindex(s, panel)[0], logged=s.is_logged) for s in slides]
    features, test_features = pca_features(
        expression[:-1], expression[-1], dim, seed, num_genes=num_genes
    )
    rng = np.random.default_rng(seed)
    xy = []
    for slide in slides:
        if slide.xy is None:
            raise UserError(f"slide {slide.name} has no coordinates")
        xy.append(slide.xy.astype(np.float64))
    posed = [random_pose(x, rng) for x in xy[:-1]] if rotate else xy[:-1]
    scorer = SlideScorer(xy[-1], seed=seed, num_minisets=num_minisets)
    table = {}
    for name in rivals:
        start = time.perf_counter()
        layout = predict(name, features, posed, test_features, seed, register=register)
        seconds = time.perf_counter() - start
        table[name] = {**scorer.score(layout), "seconds": seconds}
    for name, layout in (layouts or {}).items():
        table[name] = scorer.score(layout)
    return table


def mean_table(tables: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of every figure over several test slides."""
    return {
        name: {key: float(np.mean([t[name][key] for t in tables])) for key in tables[0][name]}
        for name in tables[0]
    }


def show(table: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row per method."""
    columns = [*SCORES, "seconds"]
    rows = (
        [name, *(number(row[c], missing="nan") if c in row else "" for c in columns)]
        for name, row in table.items()
    )
    return markdown_table(["method", *columns], rows)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="training slides, .h5ad")
    parser.add_argument("--test", help="slide to predict; leave it out to leave each one out")
    parser.add_argument("--rotate", action="store_true", help="random pose of training slides")
    parser.add_argument("--register", action="store_true", help="register training slides first")
    parser.add_argument("--rivals", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--dim", type=int, default=50, help="principal components")
    parser.add_argument("--num-genes", type=int, default=5000, help="most variable genes used")
    parser.add_argument("--num-minisets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", action="append", default=[], metavar="NAME=FILE.npy")
    args = parser.parse_args()
    if args.test is None and (len(args.train) < 2 or args.layout):
        parser.error("without --test, --train needs at least two slides and no --layout")
    layouts = {}
    for item in args.layout:
        name, _, file = item.partition("=")
        layouts[name] = np.load(Path(file), allow_pickle=False)
    splits = [(args.train, args.test)]
    if args.test is None:
        splits = [([s for s in args.train if s != left], left) for left in args.train]
    tables = [
        compare(
            train,
            test,
            rivals=args.rivals,
            rotate=args.rotate,
            register=args.register,
            seed=args.seed,
            dim=args.dim,
            num_genes=args.num_genes,
            num_minisets=args.num_minisets,
            layouts=layouts,
        )
        for train, test in splits
    ]
    print(describe_machine("numpy", "scikit-learn", "POT"))
    print(f"seed {args.seed}, rotate {args.rotate}, register {args.register}")
    print(f"test slides: {', '.join(Path(test).name for _, test in splits)} (mean)\n")
    print(show(mean_table(tables)))


if __name__ == "__main__":
    main()
