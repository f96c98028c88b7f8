"""Draws over a given ensemble: does anything learned from its models beat resampling them?

    python benchmarks/protein/resampling.py run --config configs/protein_cvae/fit.yaml \
        --config configs/protein_cvae/laptop.yaml --out runs/resampling
    python benchmarks/protein/resampling.py report --out runs/resampling

With z_1..z_M the latents of the given models and z̄ their mean, every maker draws
z̄ + Σ_j c_j (z_j − z̄) with other weights c, and all are decoded and finished alike:

* ``resampled``: mode ``resample`` of the model, a smoothed bootstrap;
* ``models``: the given models in turn, decoded (the trivial row);
* ``gaussian``: the Gaussian fitted to them, which is PCA sampling in the latents;
* ``student``: Student's t of 4 degrees of freedom, of the same covariance;
* ``between``: a point on the line between two models;
* ``mixture``: two Gaussians fitted to the two halves of the models nearest to each other;
* ``network``: the Gaussian, a quarter of its variance replaced by the prior of one structure.

Columns: minRMSD of the judged models, spread ratio and precision as in ``table.py``; ``new``: share
of conformers that are farther from every given model than the median resampled one, yet no farther
from the mean of all real models than the farthest of these (core, else all residues, CA).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from experiment import merged, read, read_cases, read_model, untrained_network
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from common.align import align
from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, to_json_lines
from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.metrics import compare
from protein_cvae.evaluation.score_protein import case_key
from protein_cvae.evaluation.tables import GROUPS, mean
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import pairwise_rmsd, superpose_on_mean
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import CLEAN
from protein_cvae.model.sampling import decode, evaluating, posterior_means, resample, sample_prior

_COLUMNS = {
    "min_rmsd_c": "minRMSD c",
    "min_rmsd_a": "minRMSD a",
    "spread_ratio_c": "spread ratio c",
    "spread_ratio_a": "spread ratio a",
    "precision_c": "precision c",
    "new": "new",
}
_FREEDOM = 4
_SHARE = 0.25  # of the network's variance

Draw = Callable[[EvaluationCase, ProteinCVAE, Latents, int, torch.Generator], Latents]


def combined(means: Latents, weights: Tensor) -> Latents:
    """z̄ + Σ_j c_j (z_j − z̄) of weights (K, M)."""
    weights = weights - weights.mean(1, keepdim=True)

    def draw(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return (flat.mean(0) + weights.to(flat) @ flat).view(len(weights), *z.shape[1:])

    return means.map(draw)


def in_turn(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(K,) positions of models, each once before any comes again."""
    rounds = -(-count // size)
    each = [torch.randperm(size, generator=generator) for _ in range(rounds)]
    return torch.cat(each)[:count]


def gaussian(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(K, M) weights of the Gaussian of M models."""
    return torch.randn(count, size, generator=generator) / (size - 1) ** 0.5


def _resampled(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    return resample(means, count, generator)


def _models(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    chosen = in_turn(len(means), count, generator)
    return combined(means, torch.eye(len(means))[chosen])


def _gaussian(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    return combined(means, gaussian(len(means), count, generator))


def _student(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    weights = gaussian(len(means), count, generator)
    square = torch.randn(count, _FREEDOM, generator=generator).square().sum(1, keepdim=True)
    return combined(means, weights * ((_FREEDOM - 2) / square).sqrt())


def _between(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    first, second = (in_turn(len(means), count, generator) for _ in range(2))
    at = torch.rand(count, 1, generator=generator)
    one = torch.eye(len(means))
    return combined(means, (1 - at) * one[first] + at * one[second])


def _mixture(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    ca = case.coordinates[list(case.given)][:, :, CA]
    distance = pairwise_rmsd(ca, ca, case.core).double().numpy()
    distance = (distance + distance.T) / 2
    label = torch.from_numpy(
        fcluster(linkage(squareform(distance, checks=False), "ward"), 2, "maxclust")
    )
    size = len(means)
    weights = torch.zeros(count, size)
    for row, model in enumerate(in_turn(size, count, generator).tolist()):
        mine = (label == label[model]).float()
        number = int(mine.sum())
        drawn = gaussian(max(number, 2), 1, generator)[0, :number]
        spread = torch.zeros(size)
        spread[mine > 0] = drawn - drawn.mean()
        weights[row] = mine / number + spread
    return combined(means, weights)


def _network(case, network, means, count, generator):  # type: ignore[no-untyped-def]
    fitted = combined(means, gaussian(len(means), count, generator))
    item = case.item().to(network.device)
    drawn = sample_prior(network, item, count, generator, level=CLEAN)
    centre = means.map(lambda z: z.mean(0, keepdim=True))
    # As wide as the models are, by the mean square of z_global.
    ours = (means.z_global - centre.z_global).square().sum(1).mean()
    scale = (ours / drawn.z_global.square().sum(1).mean()).sqrt()
    a, b = (1 - _SHARE) ** 0.5, _SHARE**0.5 * float(scale)
    moved = fitted.map(lambda x, c, d: c + a * (x - c) + b * d, centre, drawn)
    return Latents(moved.z_global, moved.shift, moved.turn, fitted.level)


DRAWS: dict[str, Draw] = {
    "resampled": _resampled,
    "models": _models,
    "gaussian": _gaussian,
    "student": _student,
    "between": _between,
    "mixture": _mixture,
    "network": _network,
}


def made(
    case: EvaluationCase, network: ProteinCVAE, name: str, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Conformers (K, L, 3, 3) of one maker, and the given models (M, L, 3) CA."""
    central = case.prepared.central
    generator = generator_for(seed, case_key(case.name), list(DRAWS).index(name))
    with evaluating(network):
        means = posterior_means(network, case.prepared, case.given, central)
        z = DRAWS[name](case, network, means, count, generator)
        x = decode(network, case.item().to(network.device), z, geometry_finisher())
    return x.float().cpu(), case.coordinates[list(case.given)][:, :, CA]


def newness(ca: Tensor, given: Tensor, real: Tensor, limit: float, mask: Tensor | None) -> float:
    """Share of (K, L, 3) farther than ``limit`` from all given, and inside the spread of real."""
    chosen = slice(None) if mask is None else mask
    moved, centre = superpose_on_mean(real[:, chosen])
    widest = (moved - centre).square().sum(-1).mean(1).sqrt().max()
    mine = ca[:, chosen]
    gap = align(mine, centre.expand_as(mine)).apply(mine) - centre
    inside = gap.square().sum(-1).mean(1).sqrt() <= widest
    far = pairwise_rmsd(ca, given, mask).amin(1) > limit
    return float((inside & far).float().mean())


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    config = merged(options.config)
    data, cases = read_cases(config)
    network = untrained_network(config, options.seed, options.device)
    if options.ckpt is not None:
        network = read_model(options.ckpt, data, options.device).model
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    key = {"seed": options.seed, "count": options.count, "split": data.split.digest}
    done = {(r["protein"], r["method"], *(r[k] for k in key)) for r in read(path)}
    for case in cases:
        if options.proteins and case.name not in options.proteins:
            continue
        limit: float | None = None
        for name in DRAWS:
            if (case.name, name, *key.values()) in done:
                continue
            real = case.coordinates[:, :, CA]
            if limit is None:
                x, given = made(case, network, "resampled", options.count, options.seed)
                limit = float(pairwise_rmsd(x[:, :, CA], given, case.core).amin(1).median())
            x, given = made(case, network, name, options.count, options.seed)
            ca, judged = x[:, :, CA], real[list(case.judged)]
            row = {"kind": "resampling", **case.head, "method": name, **key}
            for mark, mask in (("c", case.core), ("a", None)):
                if mark == "c" and mask is None:
                    continue
                scores = compare(ca, judged, mask, reference=real)
                for column in ("min_rmsd", "spread_ratio", "precision"):
                    row[f"{column}_{mark}"] = getattr(scores, column)
            row["new"] = newness(ca, given, real, limit, case.core)
            row["machine"] = describe_machine()
            with path.open("a", encoding="utf-8") as file:
                file.write(to_json_lines([row], escape=True))
            print(f"{case.group} {case.name} {name}: {row.get('min_rmsd_c')}", flush=True)


def report(options: argparse.Namespace) -> None:
    """Print a table per group, means over the proteins that every maker has."""
    rows = read(options.out / "results.jsonl")
    print(f"{machines_of(rows)}\n")
    for group, title in GROUPS.items():
        mine = [row for row in rows if row["group"] == group]
        names = dict.fromkeys(row["protein"] for row in mine)
        whole = [
            n for n in names if len({r["method"] for r in mine if r["protein"] == n}) == len(DRAWS)
        ]
        body = []
        for method in DRAWS:
            chosen = [r for r in mine if r["method"] == method and r["protein"] in whole]
            if chosen:
                body.append([method, *(f"{mean(chosen, key):.3g}" for key in _COLUMNS)])
        if body:
            print(f"### {title} ({len(whole)})\n")
            print(f"{markdown_table(['draws', *_COLUMNS.values()], body)}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--config", type=Path, action="append", help="as for lightning; repeatable")
    parser.add_argument("--ckpt", type=Path, help="trained model; the untrained one if omitted")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_resampling"))
    parser.add_argument("--proteins", nargs="+", help="names; all if omitted")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.command == "run" and not options.config:
        parser.error("run needs --config")
    {"run": run, "report": report}[options.command](options)


if __name__ == "__main__":
    main()
