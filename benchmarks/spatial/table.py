"""The results table of spatial_ipa on real slides: leave slides out, train, place, score.

    python benchmarks/spatial/table.py run --data DATA --out runs/table
    python benchmarks/spatial/table.py report --out runs/table
    python benchmarks/spatial/table.py recall --data DATA --out runs/table
    python benchmarks/spatial/table.py splits --data DATA
    python benchmarks/spatial/table.py run --slides train=a.h5ad,b.h5ad test=c.h5ad --out runs/own

``run`` computes what ``--splits``, ``--conditions`` and ``--seeds`` name and appends one line of
JSON per held-out slide and method to ``<out>/results.jsonl``; what is there already is skipped, so
it can be stopped and restarted, and several processes may share the work with ``--shard i/n``.
``report`` prints mean and standard deviation over seeds of the mean over held-out slides; it ends
with status 1 if a table lacks the rows ``common frame alone`` and ``untrained``.
``recall`` prints how many true neighbours the encoder of each fold leaves among the candidates.
``splits`` reads all slides of the splits and prints what they are; nothing is trained or placed.

``--conditions`` takes names of rows; ``options`` stands for every option of the network that the
reference design studied (``options.py``), which are run when asked for alone.

``--splits`` takes names and the groups of ``docs/protocol.md``: ``choosing`` (the default),
``trials``, ``confirmation`` and ``shifts``.  No choice may be made on the last two, so they run
with ``--final`` only.  ``--slides`` takes your own slides instead: ``train=`` and ``test=``, or
``each=`` to leave each of them out in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from gate import subsets
from options import OPTIONS
from results import KEY, cell, key_of, read_results, report
from runner import CONDITIONS, FRAME_ALONE, Runner
from splits import GROUPS, OWN, Fold, Folds, chosen_splits

from common.errors import UserError
from common.report.machine import describe_machine
from common.report.tables import markdown_table
from spatial_ipa.data.expression import Transform
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.settings import GeneSettings, Start, StartSettings
from spatial_ipa.evaluation.baselines.regression import BASELINES
from spatial_ipa.evaluation.scorer import COLUMNS
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall

# Whether the rivals are given the outline step of our placement.
_RIVAL_CONDITIONS = {"rivals": False, "rivals, outline": True}
_ALL = "options"


def chosen_conditions(given: Sequence[str]) -> list[str]:
    """Names of conditions, each once; ``options`` stands for those of ``options.py``."""
    return list(dict.fromkeys(c for name in given for c in (OPTIONS if name == _ALL else [name])))


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, Fold, str, int]]:
    for split, folds in chosen_splits(args).items():
        for fold in folds:
            for seed in args.seeds:
                for condition in chosen_conditions(args.conditions):
                    yield split, fold, condition, seed


def run(args: argparse.Namespace) -> None:
    """Compute what is missing, one line of results at a time."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    index, count = (int(part) for part in args.shard.split("/"))
    # One job holds several rivals, of which some may be there already.
    there = {(key_of(row), row["method"]) for row in read_results(results)}
    done = {key for key, _ in there}
    runner: Runner | None = None
    for number, (split, fold, condition, seed) in enumerate(jobs(args)):
        if number % count != index:
            continue
        key = (split, fold.name, condition, seed, args.tag, args.rotate)
        rivals = [name for name in args.rivals if (key, name) not in there]
        if not rivals if condition in _RIVAL_CONDITIONS else key in done:
            continue
        if runner is None or (runner.fold, runner.seed) != (fold, seed):
            runner = Runner(args, fold, seed)
        if condition in _RIVAL_CONDITIONS:
            rows = runner.rivals(rivals, outline=_RIVAL_CONDITIONS[condition])
        elif condition == FRAME_ALONE:
            rows = runner.regression()
        elif condition == "oracle":
            rows = runner.oracle()
        else:
            rows = runner.method(condition)
        identity = dict(zip(KEY, key, strict=True))
        origin = {"machine": describe_machine()}
        lines = [json.dumps({**identity, **row, **origin}) + "\n" for row in rows]
        with results.open("a") as file:
            file.write("".join(lines))
        for line in lines:
            row = json.loads(line)
            print(
                f"{split} {row['slide']} seed {seed} {row['method']} {row['inference']}: "
                f"E_geo {row['e_geo']:.3f} minisets {row['e_geo_minisets']:.3f} "
                f"Spearman {row['spearman']:.3f} RMSE {row['procrustes_rmse']:.3f} "
                f"recall {row['recall_k']:.3f} ({row['train_s']:.0f} s)",
                flush=True,
            )


def print_report(args: argparse.Namespace) -> None:
    """Print the tables of the results there are.

    Raises:
        SystemExit: with status 1, after the tables, if one lacks a row that every table needs.
    """
    tags = args.tags or [args.tag]
    folds = {(split, f.name) for split, fs in chosen_splits(args).items() for f in fs}
    rows = [
        r
        for r in read_results(Path(args.out) / "results.jsonl")
        if r["tag"] in tags and r["rotate"] == args.rotate and (r["split"], r["fold"]) in folds
    ]
    lacking = report(rows, tags, args.columns)
    if lacking:
        sys.exit("report: " + "; ".join(lacking))


RECALL_AT = (60, 80, 100, 120)


def candidate_recall(h: np.ndarray, xy: np.ndarray) -> list[float]:
    """Share of the true neighbours among the c nearest in H for each c of RECALL_AT, then c = k.

    Mean over subsets of up to 384 cells, as in training and stitching: on a whole slide of
    thousands of cells k = 0.15 n passes any c, and the figure says more about n than about H.
    """
    found = []
    for chosen in (members.numpy() for members in subsets(len(h))):
        k = adaptive_k(len(chosen))
        at = [min(c, len(chosen) - 1) for c in (*RECALL_AT, k)]
        found.append([neighbour_recall(h[chosen], xy[chosen], k, c) for c in at])
    return np.mean(found, axis=0).tolist()


def recall(args: argparse.Namespace) -> None:
    """Print candidate recall on held-out slides; encoders that are missing are trained."""
    print(f"{describe_machine()}\n")
    print("| held out | features | " + " | ".join([*map(str, RECALL_AT), "k"]) + " |")
    print("|" + " --- |" * (3 + len(RECALL_AT)))
    for split, folds in chosen_splits(args).items():
        found: dict[str, dict[int, list[list[float]]]] = {}
        for fold in folds:
            for seed in args.seeds:
                runner = Runner(args, fold, seed)
                xy = [s.xy for s in runner.test if s.xy is not None]
                for name in args.features:
                    features = runner.embeddings(name)[len(runner.train) :]
                    rows = [candidate_recall(h, x) for h, x in zip(features, xy, strict=True)]
                    found.setdefault(name, {}).setdefault(seed, []).extend(rows)
        for name, by_seed in found.items():
            means = np.array(
                [np.mean(rows, axis=0) for rows in by_seed.values()]
            )  # (seeds, columns)
            cells = [cell(column) for column in means.T]
            title = {"encoder": "encoder", "pca": "PCA, 128", "noise": "random"}[name]
            print(f"| {split} | {title} | " + " | ".join(cells) + " |", flush=True)


def split_table(splits: Mapping[str, Folds], data: Path) -> str:
    """What each fold reads: slides, spots, median counts, and a hash of all of it."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    rows = []
    for split, folds in splits.items():
        for fold in folds:
            train, test = ([part.read(data) for part in parts] for parts in (fold.train, fold.test))
            content = "".join(slide.content_hash for slide in (*train, *test))
            rows.append(
                [
                    groups.get(split, OWN), split, fold.name, _sizes(train), _sizes(test),
                    str(len(train[0].genes)), f"{_depth(train):.0f}", f"{_depth(test):.0f}",
                    hashlib.sha256(content.encode()).hexdigest()[:8],
                ]
            )  # fmt: skip
    head = [
        "group", "split", "fold", "spots, trained on", "spots, scored", "genes",
        "counts, trained on", "counts, scored", "content",
    ]  # fmt: skip
    return markdown_table(head, rows)


def _sizes(slides: Sequence[Slide]) -> str:
    return ", ".join(str(len(slide)) for slide in slides)


def _depth(slides: Sequence[Slide]) -> float:
    """Median counts of a spot over slides."""
    return float(np.median(np.concatenate([np.asarray(s.counts.sum(1)).ravel() for s in slides])))


def print_splits(args: argparse.Namespace) -> None:
    print(split_table(chosen_splits(args), Path(args.data or ".")))


_COMMANDS = {"run": run, "report": print_report, "recall": recall, "splits": print_splits}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=list(_COMMANDS))
    parser.add_argument("--data", help="folder that holds her2st/, dlpfc/, ...")
    parser.add_argument("--out", default="runs/table")
    parser.add_argument("--splits", nargs="+", default=["choosing"], help="names and groups")
    parser.add_argument("--slides", nargs="+", help="train=FILES test=FILES, or each=FILES")
    parser.add_argument("--final", action="store_true", help="run splits without choices, too")
    names = [*CONDITIONS, *_RIVAL_CONDITIONS, FRAME_ALONE, "oracle"]
    usual = [name for name in names if name not in OPTIONS]
    parser.add_argument("--conditions", nargs="+", choices=[*names, _ALL], default=usual)
    parser.add_argument("--rivals", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rotate", action="store_true", help="training slides in random poses")
    parser.add_argument("--folds", nargs="+", help="only folds of these names")
    parser.add_argument("--shard", default="0/1", help="i/n: this process's share of the work")
    parser.add_argument("--tag", default="laptop", help="name of these settings in the results")
    parser.add_argument("--tags", nargs="+", help="of the report; --tag alone when left out")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="of the report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", choices=get_args(Start), default=StartSettings().kind)
    parser.add_argument(
        "--transform", choices=get_args(Transform), default=GeneSettings().transform
    )
    features = ("encoder", "pca", "noise")
    parser.add_argument("--features", nargs="+", choices=features, default=features, help="recall")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--encoder-epochs", type=int, default=10)
    parser.add_argument("--per-epoch", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size-max", type=int, default=384)
    parser.add_argument("--noise-h", type=float, default=0.3)
    parser.add_argument("--form", choices=["points", "states"], default="points")
    parser.add_argument("--gate-steps", type=int, help="of gate pretraining, for the form's own")
    parser.add_argument("--lr", type=float, help="initial learning rate, for the form's own")
    parser.add_argument("--candidates", type=int, default=100, help="of the options' graphs")
    parser.add_argument("--w-procrustes", type=float, default=0.0)
    parser.add_argument("--common-frame", action=argparse.BooleanOptionalAction, default=True)
    modes = ("auto", "whole", "stitched")
    parser.add_argument("--modes", nargs="+", choices=modes, default=["whole", "stitched"])
    parser.add_argument("--num-draws", type=int, default=16)
    parser.add_argument("--oracle-steps", type=int, default=2000)
    args = parser.parse_args(arguments)
    if args.command != "report" and args.data is None and not args.slides:
        parser.error(f"{args.command} needs --data, or --slides")
    try:
        _COMMANDS[args.command](args)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
