"""Published rivals on the folds of the results table, trained here in environments of their own.

    python benchmarks/spatial/outside_rivals.py --data DATA --out runs/table \
        --celery-python ENV/bin/python --luna-python ENV/bin/python --luna-source LUNA
    python benchmarks/spatial/table.py report --out runs/table

``--rivals`` takes keys of ``rivals/methods.py``, where what to install is written.  Each trains on
the slides of a fold, places the slides left out, whose coordinates it is not given, and is scored
by the same scorer on the same draws as every row of ``table.py``.  One line of JSON per slide and
layout is appended to ``<out>/results.jsonl``; what is there already is skipped.  ``report`` prints
them beside the others of the same ``--tag``.

A rival that is missing or fails gets a line that says why, which counts as done: ``--again`` runs
those once more.  Status 1 tells of failures.  What it was sent, its answer and its words are in
``<out>/rivals/``.

All are given the same genes, the ``--num-genes`` most variable of the training slides, and the same
CPU seconds of training (``--budget``): those whose authors train longer get as many epochs as fit,
and rows hold ``epochs`` beside ``epochs_asked``.  ``train_s`` and ``predict_s`` are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import FAILED, KEY, key_of, read_results
from rivals.methods import METHODS, Installed
from rivals.protocol import Slice, Task
from runner import Runner
from splits import chosen_splits

from common.errors import UserError
from common.report.machine import describe_machine
from spatial_ipa.data.panels import gene_panel, reindex, select_genes
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.baselines.regression import pca_features, register_slides

CONDITION = "outside rivals"

IMAGING_GENES = 1000
"""Panels of fewer genes are taken for targeted ones, whose spots are cells."""


def make_task(runner: Runner, num_genes: int, budget_s: float, register: bool = False) -> Task:
    """A fold as a rival sees it: most variable genes, training slides centred on their means.

    Args:
        runner: with the slides.
        num_genes: genes sent, chosen on the training slides; all of a smaller panel.
        budget_s: CPU seconds of training.
        register: turn the training slides into one frame by expression first.

    Raises:
        ValueError: if a slide holds logarithms.
    """
    slides = [*runner.train, *runner.test]
    logged = [slide.name for slide in slides if slide.is_logged]
    if logged:
        raise UserError(f"rivals normalise counts themselves; {', '.join(logged)}: logarithms")
    panel = gene_panel(slides)
    genes = select_genes(runner.train, panel, min(num_genes, len(panel)))
    parts = [_slice(slide, panel, genes) for slide in slides]
    split = len(runner.train)
    xy = [slide.xy.astype(np.float64) for slide in runner.train if slide.xy is not None]
    if register:
        expression = runner.expression()
        features, _ = pca_features(expression[:split], expression[split], 50, runner.seed)
        xy = list(register_slides(features, xy))
    train = [
        Slice(part.counts, part.sizes, x - x.mean(axis=0))
        for part, x in zip(parts[:split], xy, strict=True)
    ]
    return Task(train, parts[split:], runner.seed, budget_s, len(panel) < IMAGING_GENES)


def _slice(slide: Slide, panel: Sequence[str], genes: Sequence[str]) -> Slice:
    sizes = np.asarray(reindex(slide, panel)[0].sum(axis=1), dtype=np.float32).ravel()
    return Slice(reindex(slide, genes)[0].toarray(), sizes)


def rows_of(installed: Installed, runner: Runner, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Results of one rival on one fold: a row per test slide and layout, or why there is none."""
    name = installed.method.name
    task = make_task(runner, args.num_genes, args.budget, args.register)
    marks = (str(runner.seed), "turned" if args.rotate else "", "registered" * args.register)
    fold = "_".join(filter(None, (runner.fold.name, *marks)))
    folder = Path(args.out) / "rivals" / args.tag / installed.method.key / fold
    try:
        answer = installed.solve(task, folder, args.limit, args.threads)
        rows = []
        for way, layouts in answer.layouts.items():
            mode = ", ".join(filter(None, ("registered" * args.register, way)))
            row = {
                "method": name, "inference": mode, "train_s": answer.train_s,
                "predict_s": answer.predict_s, "epochs": answer.epochs,
                "epochs_asked": answer.epochs_asked, "rival": answer.version,
            }  # fmt: skip
            for slide, xy in zip(runner.test, layouts, strict=True):
                rows.append({"slide": slide.name, **row, **runner.scorer(slide).score(xy)})
    except UserError as error:
        failed = {"method": name, "inference": FAILED, FAILED: str(error)}
        return [{"slide": slide.name, **failed} for slide in runner.test]
    return rows


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, Any, int, str]]:
    for split, folds in chosen_splits(args).items():
        for fold in folds:
            for seed in args.seeds:
                for key in args.rivals:
                    yield split, fold, seed, key


def run(args: argparse.Namespace) -> int:
    """Compute what is missing; the number of slides without a result."""
    every = list(jobs(args))  # refuses what --final is for before anything is made
    condition = f"{CONDITION}, registered" if args.register else CONDITION
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    done = {
        (key_of(row), row["method"])
        for row in read_results(results)
        if row["condition"] == condition and not (args.again and FAILED in row)
    }
    runner: Runner | None = None
    failures = 0
    for split, fold, seed, key in every:
        given = vars(args)
        installed = Installed(METHODS[key], given[f"{key}_python"], given.get(f"{key}_source"))
        identity = (split, fold.name, condition, seed, args.tag, args.rotate)
        if (identity, installed.method.name) in done:
            continue
        if runner is None or (runner.fold, runner.seed) != (fold, seed):
            runner = Runner(args, fold, seed)
        rows = rows_of(installed, runner, args)
        common = dict(zip(KEY, identity, strict=True))
        origin = {"machine": describe_machine(threads=args.threads)}
        with results.open("a") as file:
            file.write("".join(json.dumps({**common, **row, **origin}) + "\n" for row in rows))
        for row in rows:
            failures += FAILED in row
            print(f"{split} {row['slide']} seed {seed} {_summary(row)}", flush=True)
    return failures


def _summary(row: dict[str, Any]) -> str:
    if FAILED in row:
        return f"{row['method']} failed: {row[FAILED]}"
    return (
        f"{row['method']} {row['inference']}: E_geo {row['e_geo']:.3f} "
        f"Spearman {row['spearman']:.3f} RMSE {row['procrustes_rmse']:.3f} "
        f"({row['epochs']} of {row['epochs_asked']} epochs, {row['train_s']:.0f} s "
        f"+ {row['predict_s']:.0f} s)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder that holds her2st/, dlpfc/, ...")
    parser.add_argument("--out", default="runs/table")
    parser.add_argument("--splits", nargs="+", default=["choosing"], help="names and groups")
    parser.add_argument("--slides", nargs="+", help="train=FILES test=FILES, or each=FILES")
    parser.add_argument("--final", action="store_true", help="run splits without choices, too")
    parser.add_argument("--folds", nargs="+", help="only folds of these names")
    parser.add_argument("--rivals", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rotate", action="store_true", help="training slides in random poses")
    parser.add_argument("--register", action="store_true", help="training slides in one frame")
    parser.add_argument("--tag", default="laptop", help="name of these settings in the results")
    parser.add_argument("--again", action="store_true", help="run what has failed once more")
    parser.add_argument("--num-genes", type=int, default=2000, help="most variable genes sent")
    parser.add_argument("--budget", type=float, default=180.0, help="CPU seconds of training")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds until it is stopped")
    parser.add_argument("--threads", type=int, default=1)
    for method in METHODS.values():
        parser.add_argument(
            f"--{method.key}-python", type=Path, help=f"has {method.packages} installed"
        )
        if method.repository:
            parser.add_argument(
                f"--{method.key}-source", type=Path, help=f"checkout of {method.repository}"
            )
    args = parser.parse_args(arguments)
    args.command = "run"  # what chosen_splits refuses without --final
    if args.data is None and not args.slides:
        parser.error("--data is needed, or --slides")
    try:
        failures = run(args)
    except UserError as error:
        parser.error(str(error))
    if failures:
        sys.exit(f"outside_rivals: {failures} slide(s) without a result; their rows say why")


if __name__ == "__main__":
    main()
