"""From one structure: a trained model beside the same network untrained, and without its tails.

    python benchmarks/protein/prior.py run --config configs/protein_cvae/fit.yaml \
        --config configs/protein_cvae/laptop.yaml --ckpt runs/protein_cvae.ckpt --out runs/prior
    python benchmarks/protein/prior.py report --out runs/prior

Each maker draws conformers from the central given model of a protein and its sequence, finishes
them, and is scored against the judged models as in ``table.py``; what differs is the weights
alone:

* ``untrained``: the network of the configuration with random weights, whose prior is the elastic
  network of the template: the closed-form part alone;
* ``trained``;
* ``trained, no tails``: the same without the coils of the tails;
* ``the structure``: the given central model itself, copied (the trivial row; it has no spread).

``run`` appends the rows of one protein at once; what is there is skipped.  ``report`` prints a
table per group, and the ratio of each trained maker to the untrained one: geometric mean over
proteins and 95 % interval (bootstrap over proteins, 10,000 draws).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from experiment import UNTRAINED, merged, read, read_cases, read_model, untrained_network
from torch import Tensor

from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, to_json_lines
from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.score_protein import case_key
from protein_cvae.evaluation.scores import score_conformers
from protein_cvae.evaluation.tables import GROUPS, Row, mean
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import pairwise_rmsd
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import decode, evaluating, repeat_item, standard_noise

TRAINED, NO_TAILS, COPIED = "trained", "trained, no tails", "the structure"
MAKERS = (COPIED, UNTRAINED, TRAINED, NO_TAILS)
_COLUMNS = {
    "min_rmsd_c": "minRMSD c",
    "min_rmsd_a": "minRMSD a",
    "spread_ratio_c": "spread ratio c",
    "spread_ratio_a": "spread ratio a",
    "precision_c": "precision c",
    "precision_a": "precision a",
    "rmsf_correlation_a": "RMSF r",
    "inside": "inside 4 sd",
    "outlier": "Rama outliers",
    "clash": "clash",
    "torn": "torn",
}
_RATIOS = ("min_rmsd_c", "min_rmsd_a", "precision_a")
_BOOTSTRAP = 10_000


def drawn(network: ProteinCVAE, case: EvaluationCase, count: int, seed: int, tails: bool) -> Tensor:
    """(K, L, 3, 3) finished conformers from the central given model."""
    item = case.item().to(network.device)
    generator = generator_for(seed, case_key(case.name))
    with evaluating(network):
        condition = network.condition(item).repeat(count)
        noise = standard_noise(network, item.length, count, generator)
        z = network.sample_prior(repeat_item(item, count), condition, noise, 1.0, tails)
        return decode(network, item, z, geometry_finisher()).float().cpu()


def scored(x: Tensor, case: EvaluationCase) -> Row:
    """Scores of conformers, ``_c`` of the core and ``_a`` of all residues."""
    scores, row = score_conformers(x, case), Row()
    for mark, part in (("c", scores.core), ("a", scores.all)):
        row |= {} if part is None else {f"{key}_{mark}": v for key, v in vars(part).items()}
    return row | scores.validity


def copied(case: EvaluationCase) -> Row:
    """Scores of the central given model itself."""
    real = case.coordinates[:, :, CA]
    one, judged = real[[case.prepared.central]], real[list(case.judged)]
    row = Row()
    for mark, mask in (("c", case.core), ("a", None)):
        if mark == "c" and mask is None:
            continue
        row[f"min_rmsd_{mark}"] = float(pairwise_rmsd(one, judged, mask).mean())
        row[f"precision_{mark}"] = float(pairwise_rmsd(one, judged, mask).amin())
    return row


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    config = merged(options.config)
    data, cases = read_cases(config)
    untrained = untrained_network(config, options.seed, options.device)
    trained = read_model(options.ckpt, data, options.device).model
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    key = {"tag": options.tag, "count": options.count, "seed": options.seed}
    done = {(row["protein"], *(row[name] for name in key)) for row in read(path)}
    for case in cases:
        if options.proteins and case.name not in options.proteins:
            continue
        if (case.name, *key.values()) in done:
            continue
        found = {COPIED: copied(case)}
        for maker, network, tails in (
            (UNTRAINED, untrained, True),
            (TRAINED, trained, True),
            (NO_TAILS, trained, False),
        ):
            x = drawn(network, case, options.count, options.seed, tails)
            found[maker] = scored(x, case)
        rows = [
            {"kind": "prior", **case.head, "maker": maker, **key, **row}
            | {"machine": describe_machine()}
            for maker, row in found.items()
        ]
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json_lines(rows, escape=True))
        values = (f"{m} {r['min_rmsd_a']:.2f}" for m, r in found.items())
        print(f"{case.group} {case.name}: {', '.join(values)}", flush=True)


def ratio(rows: Sequence[Row], maker: str, key: str) -> tuple[float, float, float]:
    """Geometric mean over proteins of a score over the untrained network's, and its interval."""
    by = {(row["protein"], row["maker"]): row.get(key) for row in rows}
    names = {row["protein"] for row in rows}
    pairs = [(by.get((name, maker)), by.get((name, UNTRAINED))) for name in sorted(names)]
    logs = np.array([math.log(a / b) for a, b in pairs if a and b])
    if len(logs) == 0:
        return math.nan, math.nan, math.nan
    chosen = np.random.default_rng(0).integers(len(logs), size=(_BOOTSTRAP, len(logs)))
    low, high = np.quantile(logs[chosen].mean(1), [0.025, 0.975])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def report(options: argparse.Namespace) -> None:
    """Print the tables of one tag."""
    rows = [r for r in read(options.out / "results.jsonl") if r["tag"] == options.tag]
    if options.proteins:
        rows = [row for row in rows if row["protein"] in options.proteins]
    print(f"{machines_of(rows)}\n")
    for group, title in GROUPS.items():
        mine = [row for row in rows if row["group"] == group]
        if not mine:
            continue
        print(f"### {title} ({len({row['protein'] for row in mine})})\n")
        body = []
        for maker in MAKERS:
            chosen = [row for row in mine if row["maker"] == maker]
            body.append([maker, *(f"{mean(chosen, key):.3g}" for key in _COLUMNS)])
        print(f"{markdown_table(['conformers', *_COLUMNS.values()], body)}\n")
        body = []
        for maker in (TRAINED, NO_TAILS):
            cells = [ratio(mine, maker, key) for key in _RATIOS]
            body.append([maker, *(f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in cells)])
        heads = [f"{_COLUMNS[key]} over untrained" for key in _RATIOS]
        print(f"{markdown_table(['', *heads], body)}\n")
        for maker in (UNTRAINED, TRAINED):
            chosen = [row for row in mine if row["maker"] == maker]
            inside = [0.5 <= row["spread_ratio_a"] <= 2 for row in chosen]
            print(f"{maker}: spread ratio a within 0.5 to 2: {sum(inside)} of {len(inside)}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--config", type=Path, action="append", help="as for lightning; repeatable")
    parser.add_argument("--ckpt", type=Path, help="trained model")
    parser.add_argument("--tag", default="seed 0", help="name of this model in the results")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_prior"))
    parser.add_argument("--proteins", nargs="+", help="names; all if omitted")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.command == "run" and not (options.config and options.ckpt):
        parser.error("run needs --config and --ckpt")
    {"run": run, "report": report}[options.command](options)


if __name__ == "__main__":
    main()
