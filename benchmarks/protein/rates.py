"""Rate against distortion of a trained model, beside PCA, slow modes and the untrained network.

    python benchmarks/protein/rates.py run --config configs/protein_cvae/fit.yaml \
        --config configs/protein_cvae/laptop.yaml --ckpt runs/protein_cvae.ckpt --out runs/rates
    python benchmarks/protein/rates.py report --out runs/rates

``run`` reads the ``data`` and ``model`` sections of the configurations, which are laid over each
other, makes the cases of ``lightning test`` and appends the points of one protein and one maker to
``<out>/results.jsonl`` at once; what is there is skipped.  The network before training is always
judged beside the trained one.  ``report`` prints a table per group of proteins and draws
``<out>/rates.png``.  See :mod:`protein_cvae.evaluation.rates` for what is measured.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from experiment import UNTRAINED, merged, read, read_cases, read_model, untrained_network
from matplotlib.figure import Figure

from common.report.figures import save_figure
from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, to_json_lines
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.rates import GLOBAL_ALONE, OURS, RatePoint, linear_points, rate_points
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import GROUPS, Row, mean, rate_row

COUNTS = (4, 8, 16, 32)
_LINEAR = "linear"
_COLUMNS = {
    "nats": "nats per residue",
    "nats_motion": "without turns",
    "ca_core": "CA core, Å",
    "ca_all": "CA all, Å",
}


def marked(points: Sequence[RatePoint], mark: str) -> list[RatePoint]:
    """The points of a network under its name."""
    return [replace(p, method=f"{mark}: {p.method}") for p in points]


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    config = merged(options.config)
    data, cases = read_cases(config)
    settings = EvaluationSettings(seed=options.seed, rates=tuple(options.rates))
    untrained = untrained_network(config, options.seed, options.device)
    makers: dict[str, Callable[[EvaluationCase], list[RatePoint]]] = {
        _LINEAR: lambda case: linear_points(case, options.rates, COUNTS, options.seed),
        UNTRAINED: lambda case: marked(rate_points(untrained, case, settings), UNTRAINED),
    }
    if options.ckpt is not None:
        network = read_model(options.ckpt, data, options.device).model
        name = f"trained {options.tag}".strip()
        makers[name] = lambda case: marked(rate_points(network, case, settings), "trained")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    key = {"rates": list(options.rates), "seed": options.seed, "split": data.split.digest}
    done = {(row["protein"], row["maker"], json.dumps(row["key"])) for row in read(path)}
    for case in cases:
        if options.proteins and case.name not in options.proteins:
            continue
        for maker, make in makers.items():
            if (case.name, maker, json.dumps(key)) in done:
                continue
            origin = {"maker": maker, "key": key, "machine": describe_machine()}
            rows = [{**rate_row(case.head, point), **origin} for point in make(case)]
            with path.open("a", encoding="utf-8") as file:
                file.write(to_json_lines(rows, escape=True))
            print(f"{case.group} {case.name} {maker}", flush=True)


def report(options: argparse.Namespace) -> None:
    """Print a table per group and draw the figure."""
    rows = read(options.out / "results.jsonl")
    print(f"{machines_of(rows)}\n")
    makers = {row["maker"] for row in rows}
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for (group, title), axis in zip(GROUPS.items(), axes, strict=True):
        mine = [row for row in rows if row["group"] == group]
        # Means are over the same proteins in every line.
        complete = [
            protein
            for protein in dict.fromkeys(row["protein"] for row in mine)
            if {row["maker"] for row in mine if row["protein"] == protein} == makers
        ]
        mine = [row for row in mine if row["protein"] in complete]
        if mine:
            print(f"### {title} ({len(complete)})\n\n{table(mine)}\n")
            draw(axis, mine)
            axis.set_title(f"{title} ({len(complete)})")
    save_figure(figure, options.out / "rates.png", dpi=130)


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by curve, which is a method."""
    names = dict.fromkeys(row["method"] for row in rows)
    return {name: [row for row in rows if row["method"] == name] for name in names}


def table(rows: Sequence[Row]) -> str:
    """One line per curve and noise."""
    body = []
    for name, mine in curves(rows).items():
        for noise in dict.fromkeys(row["noise"] for row in mine):
            chosen = [row for row in mine if row["noise"] == noise]
            values = [f"{mean(chosen, key):.3g}" for key in _COLUMNS]
            body.append([name, f"{noise:g}", f"{mean(chosen, 'dimensions'):.0f}", *values])
    return markdown_table(["coded by", "noise, Å", "numbers", *_COLUMNS.values()], body)


def draw(axis, rows: Sequence[Row]) -> None:  # type: ignore[no-untyped-def]
    """CA error of the core against nats per residue, a line per curve."""
    for name, mine in curves(rows).items():
        points = []
        for noise in dict.fromkeys(row["noise"] for row in mine):
            chosen = [row for row in mine if row["noise"] == noise]
            points.append((mean(chosen, "nats_motion"), mean(chosen, "ca_core")))
        points = sorted(p for p in points if not math.isnan(p[1]))
        ours = OURS in name or GLOBAL_ALONE in name
        axis.plot(*zip(*points, strict=True), "o-" if ours else ".--", ms=4, label=name)
    axis.set_xlabel("nats per residue, without turns")
    axis.set_ylabel("CA-RMSD of the core, Å")
    axis.set_xscale("log")
    axis.legend(fontsize=7)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--config", type=Path, action="append", help="as for lightning; repeatable")
    parser.add_argument("--ckpt", type=Path, help="trained model; the others alone if omitted")
    parser.add_argument("--tag", default="", help="name of this model in the results")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_rates"))
    parser.add_argument("--proteins", nargs="+", help="names; all if omitted")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.05, 0.1, 0.2, 0.4, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.command == "run" and not options.config:
        parser.error("run needs --config")
    {"run": run, "report": report}[options.command](options)


if __name__ == "__main__":
    main()
