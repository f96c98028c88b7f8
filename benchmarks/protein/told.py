"""Conformers that are told how wide they are, beside rivals that are told the same.

    python benchmarks/protein/told.py run --data ENSEMBLES --out runs/protein_told
    python benchmarks/protein/told.py report --out runs/protein_told

``ENSEMBLES`` is a folder of ensembles (files and trajectory folders, searched with its subfolders).
Of each, the longest chain with the residues that all models have: every third model is held out,
the others are given.  Told is the RMSF of the given models, superposed on their ordered core, or
their mean pairwise CA-RMSD; everything starts from the central given model alone.  ``run`` appends
one row per protein and maker to ``<out>/results.jsonl``, proteins with few residues first; what is
there already is skipped, so it can be stopped and restarted.  Without ``--ckpt`` the network is an
untrained one of laptop size, whose decoder hardly moves its template.

"finish" is the output layer of generation.  The elastic network is the anisotropic one of
``evaluation/baselines.py``, about the same structure: its 20 slowest modes are scaled by one factor
to the mean pairwise CA-RMSD, or at each residue to the RMSF.  c = ordered core of the given
models, a = all residues; minRMSD is of held-out models; r is the correlation of the RMSF profile
with the one that was told, superposed as that is, and "r a" with all CA superposed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiment import read
from torch import Tensor

from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, number, to_json_lines
from common.rng import generator_for
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.baselines import NETWORK_MODES, network_modes
from protein_cvae.evaluation.metrics import compare, correlation
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.generation.outputs import superposing
from protein_cvae.generation.told import Told, stiff_part, told_motion
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import mean_rmsd
from protein_cvae.geometry.validity import validity
from protein_cvae.io import find_ensembles, load_ensemble
from protein_cvae.model import sampling
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, repeat_item
from protein_cvae.presets import LAPTOP
from protein_cvae.trained import load

Row = dict[str, Any]
CHUNK = 16
GOAL_R, GOAL_RATIO = 0.95, (0.8, 1.25)
COLUMNS = {
    "r": "r",
    "r_a": "r a",
    "ratio_c": "spread ratio c",
    "ratio_a": "spread ratio a",
    "min_rmsd_c": "minRMSD c",
    "min_rmsd_a": "minRMSD a",
    "inside": "inside 4 sd",
    "clash": "clash",
    "valid": "valid",
    "outlier": "Rama outliers",
    "seconds": "s per conformer",
}


@dataclass(frozen=True, eq=False)
class Case:
    """One protein: what is given, held out and told."""

    prepared: PreparedEnsemble
    real: Tensor
    held: Tensor
    rmsf: Tensor
    rmsd: float

    @staticmethod
    def of(ensemble: Ensemble) -> Case:
        models = range(ensemble.num_models)
        given = ensemble.select_models([m for m in models if m % 3 != 2])
        prepared = PreparedEnsemble.build(0, given, range(given.num_models))
        everywhere = torch.ones(ensemble.length, dtype=torch.bool)
        rmsf = profile(given.coordinates, superposing(prepared.core, everywhere))
        held = ensemble.coordinates[[m for m in models if m % 3 == 2]]
        return Case(prepared, given.coordinates, held, rmsf, mean_rmsd(given.coordinates[:, :, CA]))

    @property
    def told(self) -> Told:
        return Told(self.rmsf, None, stiff_part(self.rmsf))

    @property
    def start(self) -> Tensor:
        return self.real[self.prepared.central]


def profile(coordinates: Tensor, superposed: Tensor) -> Tensor:
    """(L,) RMSF of CA in Å, superposed on their mean by some residues."""
    return Told(torch.zeros(0), None, superposed).measured(coordinates)


def ours(network: ProteinCVAE, told: Callable[[Case], Told] | None) -> Callable[..., Tensor]:
    """A maker: the prior, told or not."""

    def make(case: Case, count: int, generator: torch.Generator) -> Tensor:
        template = case.prepared.central
        batch = case.prepared.item(template, template).to(network.device)
        finisher = geometry_finisher()

        def decode(latents: Latents) -> Tensor:
            return sampling.decode(network, batch, latents, finisher, CHUNK)

        def moved(shift: Tensor, turn: Tensor) -> Tensor:
            return decode(sampling.coded(network, batch, shift, turn))

        with evaluating(network):
            latents = sampling.sample_prior(network, batch, count, generator)
            if told is None:
                return decode(latents).cpu()
            shift, _ = sampling.motion(network, batch, latents)
            return moved(*told_motion(shift, batch, moved, told(case))).cpu()

    return make


def network_draws(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """(K, L, 3) displacements in the slowest modes of the elastic network, of any size."""
    variance, modes = network_modes(case.start[:, CA])
    variance, modes = variance[:NETWORK_MODES], modes[:, :NETWORK_MODES]
    drawn = torch.randn(count, len(variance), generator=generator) * variance.sqrt()
    return (drawn @ modes.mT).unflatten(1, (-1, 3))


def network_by_number(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """The elastic network as wide as the number says."""
    move, ca = network_draws(case, count, generator), case.start[:, CA]
    factor = case.rmsd / mean_rmsd(ca + move)
    for _ in range(8):
        factor *= case.rmsd / mean_rmsd(ca + factor * move)
    return case.start + factor * move[:, :, None]


def network_by_profile(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """The elastic network, at each residue as wide as the profile says."""
    move = network_draws(case, count, generator)
    width = move.square().sum(-1).mean(0).sqrt().clamp_min(1e-9)
    return case.start + (case.rmsf / width)[:, None, None] * move[:, :, None]


def noise(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """Independent noise of the RMSF on each atom."""
    drawn = torch.randn(count, *case.start.shape, generator=generator) / 3**0.5
    return case.start + case.rmsf[:, None, None] * drawn


def finished(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A maker behind the output layer of generation."""

    def run(case: Case, count: int, generator: torch.Generator) -> Tensor:
        item = case.prepared.item(case.prepared.central, case.prepared.central)
        parts = []
        for part in make(case, count, generator).split(CHUNK):
            batch = repeat_item(item, len(part))
            parts.append(geometry_finisher()(part, batch, batch.mask))
        return torch.cat(parts)

    return run


def makers(network: ProteinCVAE) -> dict[str, Callable[..., Tensor]]:
    """All makers, by the name they have in the tables."""
    return {
        "given models": lambda case, count, generator: case.real,
        "prior, untold": ours(network, None),
        "prior, told the number": ours(
            network, lambda c: Told(None, c.rmsd, torch.ones(len(c.rmsf), dtype=torch.bool))
        ),
        "prior, told the profile": ours(network, lambda c: c.told),
        "elastic network, the number + finish": finished(network_by_number),
        "elastic network, the profile + finish": finished(network_by_profile),
        "noise, the profile": noise,
        "noise, the profile + finish": finished(noise),
    }


def scored(case: Case, made: Tensor) -> Row:
    """Scores of one maker on one protein."""
    e, told = case.prepared.ensemble, case.told
    ca, held, given = made[:, :, CA], case.held[:, :, CA], case.real[:, :, CA]
    whole = compare(ca, held, reference=given)
    core = superposing(case.prepared.core, torch.ones_like(case.prepared.core))
    ordered = compare(ca, held, core, reference=given)
    found = validity(
        made,
        torch.ones(made.shape[:2], dtype=torch.bool),
        e.bonded,
        e.aatype,
        chain=e.chain_index,
        number=e.residue_numbers,
    ).summary()
    return {
        "r": correlation(profile(made, told.superposed), case.rmsf),
        "r_a": whole.rmsf_correlation,
        "ratio_c": ordered.spread_ratio,
        "ratio_a": whole.spread_ratio,
        "min_rmsd_c": ordered.min_rmsd,
        "min_rmsd_a": whole.min_rmsd,
        **{key: found[key] for key in ("inside", "clash", "valid", "outlier")},
    }


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The proteins, small ones first."""
    found = []
    for path in find_ensembles([options.data]):
        name = path.name.split(".")[0]
        name = f"md_{name}" if path.is_dir() else name
        if options.proteins and name not in options.proteins:
            continue
        chain = load_ensemble(path, name=name, max_frames=options.frames).select_chain("longest")
        chain = chain.select_residues(chain.mask.all(0))
        if chain.num_models >= 5:
            found.append(chain)
    for ensemble in sorted(found, key=lambda e: e.length):
        yield Case.of(ensemble)


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    if options.ckpt is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = ProteinCVAE(LAPTOP.network).eval()
    else:
        network = load(options.ckpt).network
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    settings = json.dumps({
        "count": options.count, "frames": options.frames, "seed": options.seed,
        "network": "untrained" if options.ckpt is None else options.ckpt.name,
    })  # fmt: skip
    done = {(row["protein"], row["maker"], row["settings"]) for row in read(path)}
    for case in cases(options):
        name = case.prepared.ensemble.name
        for maker, make in makers(network).items():
            if (name, maker, settings) in done:
                continue
            start = time.perf_counter()
            made = make(case, options.count, generator_for(options.seed, 0))
            seconds = (time.perf_counter() - start) / options.count
            row = {
                "protein": name, "residues": len(case.rmsf), "given": len(case.real),
                "rmsf": float(case.rmsf.mean()), "rmsf_max": float(case.rmsf.max()),
                "maker": maker, **scored(case, made), "seconds": seconds, "settings": settings,
                "machine": describe_machine(),
            }  # fmt: skip
            with path.open("a", encoding="utf-8") as file:
                file.write(to_json_lines([row], escape=True))
            shown = " ".join(f"{key} {row[key]:.3f}" for key in list(COLUMNS)[:6])
            print(f"{name} {maker}: {shown} ({seconds * options.count:.0f} s)", flush=True)


def report(options: argparse.Namespace) -> None:
    """Print the table, who misses the goals, and a line per protein."""
    rows = read(options.out / "results.jsonl")
    if len({row["settings"] for row in rows}) != 1:
        raise SystemExit(f"{options.out}/results.jsonl holds none or several settings")
    names = list(dict.fromkeys(row["maker"] for row in rows))
    by = {(row["protein"], row["maker"]): row for row in rows}
    whole = [
        p for p in dict.fromkeys(r["protein"] for r in rows) if all((p, n) in by for n in names)
    ]
    print(f"{machines_of(rows)}\n{' '.join(sys.argv)}\n{rows[0]['settings']}\n")
    print(f"Means over {len(whole)} proteins:\n")
    lines, met = [], []
    for name in names:
        mine = [by[protein, name] for protein in whole]
        lines.append([name, *(number(mean(mine, key)) for key in COLUMNS)])
        met.append([
            name,
            percent([row["r"] is not None and row["r"] >= GOAL_R for row in mine]),
            *(
                percent([GOAL_RATIO[0] <= row[key] <= GOAL_RATIO[1] for row in mine])
                for key in ("ratio_c", "ratio_a")
            ),
            percent([row["valid"] == 1 for row in mine]),
        ])  # fmt: skip
    print(markdown_table(["", *COLUMNS.values()], lines))
    low, high = GOAL_RATIO
    head = [
        "proteins with",
        f"r >= {GOAL_R}",
        f"ratio c {low} to {high}",
        f"ratio a {low} to {high}",
    ]
    print(f"\n{markdown_table([*head, 'all conformers valid'], met)}\n")
    chosen = [name for name in names if name.startswith("prior")]
    head = ["protein", "residues", "mean / max RMSF"]
    head += [f"{name.partition(', ')[2]}: {c}" for name in chosen for c in ("r", "ratio c, a")]
    each = []
    for protein in whole:
        first = by[protein, names[0]]
        line = [protein, str(first["residues"]), f"{first['rmsf']:.2f} / {first['rmsf_max']:.1f}"]
        for name in chosen:
            row = by[protein, name]
            line += [number(row["r"]), f"{row['ratio_c']:.2f}, {row['ratio_a']:.2f}"]
        each.append(line)
    print(markdown_table(head, each))


def mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def percent(met: Sequence[bool]) -> str:
    return f"{sum(met)} of {len(met)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--data", type=Path, help="folder of ensembles")
    parser.add_argument("--proteins", nargs="+", help="these alone, e.g. 1l2y md_bpti")
    parser.add_argument("--ckpt", type=Path, help="trained model; an untrained one if omitted")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_told"))
    parser.add_argument("--count", type=int, default=32, help="conformers per protein")
    parser.add_argument("--frames", type=int, default=60, help="most frames of a trajectory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.command == "run" and options.data is None:
        parser.error("run needs --data")
    (run if options.command == "run" else report)(options)


if __name__ == "__main__":
    main()
