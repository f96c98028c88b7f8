"""From one structure: a trained model beside the same network untrained, and without its tails.

    python benchmarks/protein/prior.py run --config configs/protein_cvae/fit.yaml \
        --config configs/protein_cvae/laptop.yaml --ckpt runs/protein_cvae.ckpt --out runs/prior
    python benchmarks/protein/prior.py report --out runs/prior

Each maker draws conformers from the central given model of a protein and its sequence, finishes
them, and is scored against the judged models as in ``table.py``:

* ``the structure``: the given central model itself, copied (the trivial row; it has no spread);
* ``untrained``: the network of the configuration with random weights, whose prior is the elastic
  network of the template: the closed-form part alone;
* ``untrained, whole width``: the same with amplitudes of the whole width β instead of the share of
  it that draws take (``protein_cvae.model.channel.WITHIN``), the law of the protocol;
* ``trained``;
* ``trained, no tails``: the same without the coils of the tails;
* with ``--told``, elastic networks that are told what nobody has who has one structure, the spread
  of the given models, of the core or of all residues, about the template or about their medoid.

``run`` appends what is missing of one protein at once.  ``report`` takes the mean over the seeds of
each protein first; it prints a table per group, the standard deviation of the trained rows over
seeds, and ratios to an untrained row: geometric mean over proteins and 95 % interval (bootstrap
over proteins, 10,000 draws).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from experiment import (
    UNTRAINED,
    finished,
    merged,
    read,
    read_cases,
    read_model,
    untrained_network,
)
from torch import Tensor

from common.errors import UserError
from common.files.identity import tensor_hash
from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, to_json_lines
from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.baselines import network_sampling
from protein_cvae.evaluation.score_protein import case_key
from protein_cvae.evaluation.scores import score_conformers
from protein_cvae.evaluation.tables import GROUPS, Row, mean
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import pairwise_rmsd
from protein_cvae.model.channel import WITHIN
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import decode, evaluating, repeat_item, standard_noise

TRAINED, NO_TAILS, COPIED = "trained", "trained, no tails", "the structure"
LAW = f"{UNTRAINED}, whole width"
# Which residues' spread is told, and whether the centre is the medoid.
TOLD = {
    "told core, about the template": (True, False),
    "told all, about the template": (False, False),
    "told core, about the medoid": (True, True),
    "told all, about the medoid": (False, True),
}
MAKERS = (COPIED, UNTRAINED, LAW, TRAINED, NO_TAILS, *TOLD)
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
_RATIOS = ("min_rmsd_c", "min_rmsd_a", "precision_c", "precision_a")
_BOOTSTRAP = 10_000


def drawn(
    network: ProteinCVAE, case: EvaluationCase, count: int, seed: int, tails: bool, within: float
) -> Tensor:
    """(K, L, 3, 3) finished conformers from the central given model."""
    item = case.item().to(network.device)
    generator = generator_for(seed, case_key(case.name))
    with evaluating(network):
        condition = network.condition(item).repeat(count)
        noise = standard_noise(network, item.length, count, generator)
        z = network.sample_prior(
            repeat_item(item, count), condition, noise, tails=tails, within=within
        )
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


def told(case: EvaluationCase, count: int, seed: int, of_core: bool, medoid: bool) -> Tensor:
    """(K, L, 3, 3) finished conformers of an elastic network as wide as the given models."""
    given = case.coordinates[list(case.given)]
    weights = torch.ones(given.shape[1])
    if of_core and case.core is not None:
        weights = case.core.float()
    generator = generator_for(seed, case_key(case.name))
    centre = None if medoid else case.coordinates[case.prepared.central]
    return finished(network_sampling(given, weights, count, generator, centre), case)


def makers(
    options: argparse.Namespace, case: EvaluationCase, untrained: ProteinCVAE, trained: ProteinCVAE
) -> dict[str, Callable[[], Row]]:
    """How the row of each maker is found."""
    count, seed = options.count, options.seed

    def of(network: ProteinCVAE, tails: bool = True, within: float = WITHIN) -> Row:
        return scored(drawn(network, case, count, seed, tails, within), case)

    found: dict[str, Callable[[], Row]] = {
        COPIED: lambda: copied(case),
        UNTRAINED: lambda: of(untrained),
        LAW: lambda: of(untrained, within=1.0),
        TRAINED: lambda: of(trained),
        NO_TAILS: lambda: of(trained, tails=False),
    }
    for name, which in TOLD.items() if options.told else ():
        found[name] = partial(lambda w: scored(told(case, count, seed, *w), case), which)
    return found


def check_one_model(rows: Sequence[Row], tag: str, model: dict[str, str], path: Path) -> None:
    """Refuse rows of another model or split under the same tag.

    Raises:
        ValueError: if there are any.
    """
    for row in rows:
        other = [k for k, v in model.items() if row["tag"] == tag and row.get(k, v) != v]
        if other:
            raise UserError(
                f"{path} holds rows of other {' and '.join(other)} under the tag {tag!r}; give "
                "--tag or --out of its own"
            )


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
    model = {"weights": tensor_hash(trained.state_dict()), "split": data.split.digest}
    found = read(path)
    check_one_model(found, options.tag, model, path)
    done = {(row["protein"], row["maker"], *(row[name] for name in key)) for row in found}
    for case in cases:
        if options.proteins and case.name not in options.proteins:
            continue
        wanted = {
            maker: make
            for maker, make in makers(options, case, untrained, trained).items()
            if (not options.makers or maker in options.makers)
            and (case.name, maker, *key.values()) not in done
        }
        rows = [
            {"kind": "prior", **case.head, "maker": maker, **key, **model, **make()}
            | {"machine": describe_machine()}
            for maker, make in wanted.items()
        ]
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json_lines(rows, escape=True))
        values = (f"{row['maker']} {row['min_rmsd_a']:.2f}" for row in rows)
        print(f"{case.group} {case.name}: {', '.join(values)}", flush=True)


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row of each protein and maker: means over the seeds of what is a number."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["protein"], row["maker"]), []).append(row)
    found = []
    for mine in groups.values():
        numbers = [k for k, v in mine[0].items() if isinstance(v, float)]
        found.append(mine[0] | {k: mean(mine, k) for k in numbers})
    return found


def ratio(rows: Sequence[Row], maker: str, key: str, base: str) -> tuple[float, float, float]:
    """Geometric mean over proteins of a score over that of ``base``, and its interval."""
    by = {(row["protein"], row["maker"]): row.get(key) for row in rows}
    names = {row["protein"] for row in rows}
    pairs = [(by.get((name, maker)), by.get((name, base))) for name in sorted(names)]
    logs = np.array([math.log(a / b) for a, b in pairs if a and b])
    if len(logs) == 0:
        return math.nan, math.nan, math.nan
    chosen = np.random.default_rng(0).integers(len(logs), size=(_BOOTSTRAP, len(logs)))
    low, high = np.quantile(logs[chosen].mean(1), [0.025, 0.975])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def report(options: argparse.Namespace) -> None:
    """Print the tables of ``--tags``, or of ``--tag``."""
    rows = [r for r in read(options.out / "results.jsonl") if r["tag"] in options.tags]
    if options.proteins:
        rows = [row for row in rows if row["protein"] in options.proteins]
    print(f"{machines_of(rows)}\n")
    for group, title in GROUPS.items():
        each = [row for row in rows if row["group"] == group]
        if not each:
            continue
        mine = over_seeds(each)
        seeds = {row["tag"] for row in each}
        proteins = {row["protein"] for row in mine}
        print(f"### {title} ({len(proteins)} proteins, {len(seeds)} seeds)\n")
        there = [maker for maker in MAKERS if any(row["maker"] == maker for row in mine)]
        body = []
        for maker in there:
            chosen = [row for row in mine if row["maker"] == maker]
            spread = [row["spread_ratio_a"] for row in chosen if "spread_ratio_a" in row]
            inside = sum(0.5 <= value <= 2 for value in spread)
            cells = [f"{mean(chosen, key):.3g}" for key in _COLUMNS]
            body.append([maker, *cells, f"{inside} of {len(spread)}" if spread else ""])
        heads = ["conformers", *_COLUMNS.values(), "spread a in 0.5 to 2"]
        print(f"{markdown_table(heads, body)}\n")
        body = []
        for base in (maker for maker in (UNTRAINED, LAW) if maker in there):
            for maker in there:
                if maker in (COPIED, base):
                    continue
                cells = [ratio(mine, maker, key, base) for key in _RATIOS]
                shown = [f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in cells]
                body.append([maker, base, *shown])
        if body:
            print(f"{markdown_table(['', 'over', *(_COLUMNS[key] for key in _RATIOS)], body)}\n")
        if len(seeds) > 1:
            heads = ["over seeds", *(_COLUMNS[key] for key in _RATIOS)]
            print(f"{markdown_table(heads, seed_rows(each))}\n")


def seed_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Of the trained makers mean and standard deviation over seeds of the mean over proteins."""
    body = []
    for maker in (TRAINED, NO_TAILS):
        tags = dict.fromkeys(row["tag"] for row in rows if row["maker"] == maker)
        if len(tags) < 2:
            continue
        cells = []
        for key in _RATIOS:
            means = [
                mean([r for r in rows if (r["tag"], r["maker"]) == (tag, maker)], key)
                for tag in tags
            ]
            cells.append(f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}")
        body.append([maker, *cells])
    return body


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--config", type=Path, action="append", help="as for lightning; repeatable")
    parser.add_argument("--ckpt", type=Path, help="trained model")
    parser.add_argument("--tag", default="seed 0", help="name of this model in the results")
    parser.add_argument("--tags", nargs="+", help="of report: models, seeds of one training")
    parser.add_argument("--told", action="store_true", help="elastic networks told the spread, too")
    parser.add_argument("--makers", nargs="+", choices=MAKERS, metavar="MAKER", help="only these")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_prior"))
    parser.add_argument("--proteins", nargs="+", help="names; all if omitted")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.command == "run" and not (options.config and options.ckpt):
        parser.error("run needs --config and --ckpt")
    options.tags = options.tags or [options.tag]
    {"run": run, "report": report}[options.command](options)


if __name__ == "__main__":
    main()
