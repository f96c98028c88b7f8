"""One long trajectory: what it takes to train on it, and what a training on it gives.

    python benchmarks/protein/md.py stream --frames 10000 --residues 100 --out STREAM.jsonl
    python benchmarks/protein/md.py score DATA/bpti --epochs 2 --draws 400 --out SCORE.jsonl
    python benchmarks/protein/md.py report STREAM.jsonl SCORE.jsonl

``stream`` writes a simulated trajectory (.dcd; backbone and O, independent noise about one
structure) and reads it in a process of its own for each way: in memory, mapped for the first time
(converted) and mapped again.  Each sets up the data of ``--size trajectory``, takes ``--draws``
draws, and trains ``--steps`` steps.  Seconds, conformers per second (each with a template, which is
another frame) and the largest resident set after each part, the model of laptop size included; of
pages in use at the end, those of the process and those of files, which the system takes back when
it needs them.

``score`` trains on a folder of a topology and trajectories with that size, and compares frames of
the held-out blocks with what comes from the trained network, the network before training, and
linear codes of as many numbers (:mod:`protein_cvae.evaluation.rates`), without finishing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import mdtraj
import numpy as np
import torch
from torch import Tensor

import protein_cvae
from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, number, to_json_lines
from common.rng import generator_for
from common.threads import compute_threads
from protein_cvae.data.batch import collate
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.division import divide
from protein_cvae.data.settings import Sources, TimeBlocks
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.data.splits import model_hashes
from protein_cvae.evaluation.baselines import pca_sampling
from protein_cvae.evaluation.rates import LinearCodec, rate_points
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.generation.generate import GenerateOptions, generate_prepared
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import pairwise_rmsd
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.presets import TRAJECTORY, Preset

WAYS = ("in memory", "mapped, first time", "mapped again")
_PART = 1000  # frames written at once
_NOISE = 0.005  # nm
_MB = 1024.0  # kB


def write_trajectory(folder: Path, frames: int, residues: int) -> float:
    """A simulated trajectory with its topology; MB of the trajectory."""
    (ensemble,) = simulate_ensembles(1, 2, residues, residues, seed=0)
    folder.mkdir(parents=True)
    protein_cvae.write(folder / "topology.pdb", ensemble.select_models([0]))
    table = mdtraj.load(str(folder / "topology.pdb"))
    generator = np.random.default_rng(0)
    path = folder / "run.dcd"
    with mdtraj.formats.DCDTrajectoryFile(str(path), "w") as file:
        for first in range(0, frames, _PART):
            shape = (min(_PART, frames - first), table.n_atoms, 3)
            moved = table.xyz + _NOISE * generator.standard_normal(shape, dtype=np.float32)
            file.write(10 * moved)
    return path.stat().st_size / 1e6


def resident() -> dict[str, float]:
    """MB of this process: the most so far, and what is resident now, its own and of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    names = {"peak_mb": "VmHWM", "own_mb": "RssAnon", "files_mb": "RssFile"}
    return {name: int(found[key].split()[0]) / _MB for name, key in names.items()}


def stream_once(options: argparse.Namespace) -> dict[str, float]:
    """Set up, draw and train in this process."""
    before = resident()["peak_mb"]
    preset = TRAJECTORY
    cache = None if options.cache is None else str(options.cache)
    sources = replace(preset.sources, trajectories=(str(options.folder),), cache=cache)
    draws = replace(preset.draws, per_epoch=options.draws)
    data = EnsembleDataModule(sources, None, preset.split, draws)
    start, cpu = time.perf_counter(), time.process_time()
    data.setup("fit")
    row = {
        "before_mb": before,
        "setup_s": time.perf_counter() - start,
        "setup_cpu_s": time.process_time() - cpu,
        "setup_peak_mb": resident()["peak_mb"],
    }
    dataset = data.train_dataset(1)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    for first in range(0, len(dataset), draws.batch_proteins):
        last = min(first + draws.batch_proteins, len(dataset))
        count += len(collate([dataset[i] for i in range(first, last)]))
    row["per_s"] = count / (time.perf_counter() - start)
    row["per_cpu_s"] = count / (time.process_time() - cpu)
    row["draws_peak_mb"] = resident()["peak_mb"]
    if options.steps:
        module = protein_cvae.ProteinCVAEModule(preset.network, optimizer=preset.optimizer)
        trainer = pl.Trainer(
            max_steps=options.steps, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
            use_distributed_sampler=False,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(module, data)
        row["step_s"] = (time.perf_counter() - start) / options.steps
    return row | resident()


def stream(options: argparse.Namespace) -> None:
    """Append a row per way."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder, cache = Path(scratch) / "md", Path(scratch) / "frames"
        size = write_trajectory(folder, options.frames, options.residues)
        for way in WAYS:
            if way == WAYS[0] and options.frames > options.memory_up_to:
                continue
            command = [
                sys.executable, __file__, "once", str(folder), "--draws", str(options.draws),
                "--steps", str(options.steps),
            ]  # fmt: skip
            command += [] if way == WAYS[0] else ["--cache", str(cache)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            kept = sum(path.stat().st_size for path in cache.rglob("*")) / 1e6
            row: dict[str, Any] = {
                "kind": "stream", "way": way, "frames": options.frames,
                "residues": options.residues, "file_mb": size, "kept_mb": kept,
                "draws": options.draws, "steps": options.steps, "machine": describe_machine(),
            }  # fmt: skip
            append(options.out, row | json.loads(done.stdout.splitlines()[-1]))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line, and print it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json_lines([row], escape=True))
    print(json.dumps(row), flush=True)


def score(options: argparse.Namespace) -> None:
    """Train on each folder and append a row per method."""
    settings = EvaluationSettings(rates=tuple(options.rates), seed=options.seed)
    draws = replace(TRAJECTORY.draws, per_epoch=options.draws)
    for folder in options.folders:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            sources = replace(TRAJECTORY.sources, cache=str(Path(scratch) / "frames"))
            preset = replace(TRAJECTORY, sources=sources, draws=draws, seed=options.seed)
            start, cpu = time.perf_counter(), time.process_time()
            trained = protein_cvae.fit(
                str(folder), Path(scratch) / "run", preset, options.epochs, accelerator="cpu",
                progress=False,
            )  # fmt: skip
            took = {
                "fit_s": time.perf_counter() - start, "fit_cpu_s": time.process_time() - cpu,
                "steps": options.epochs * -(-options.draws // draws.batch_proteins),
            }  # fmt: skip
            (case,) = cases(folder, preset)
            with compute_threads(1):
                found = rows_of(case, trained.network, preset, settings, options.count)
                found += nearest_frames(case)
        about = {"kind": "score", **case.head, **took, "machine": describe_machine()}
        for row in found:
            append(options.out, about | row)


def cases(folder: Path, preset: Preset) -> list[EvaluationCase]:
    """The case of the training's split."""
    sources: Sources = replace(preset.sources, trajectories=(str(folder),))
    data = EnsembleDataModule(sources, None, preset.split)
    data.setup("test")
    return list(data.cases)


def rows_of(
    case: EvaluationCase,
    network: ProteinCVAE,
    preset: Preset,
    settings: EvaluationSettings,
    count: int,
) -> list[dict[str, Any]]:
    """Rate and distortion, and distance to the nearest of ``count`` conformers, by method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        untrained = ProteinCVAE(preset.network).eval()
    rows: list[dict[str, Any]] = []
    numbers = set()
    for name, net in (("trained", network), ("untrained", untrained)):
        for point in rate_points(net, case, settings):
            numbers.add(point.dimensions)
            rows.append({"table": "rates", **vars(point), "method": f"{name}: {point.method}"})
        for mode in ("resample", "prior"):
            drawn = GenerateOptions(
                mode=mode, count=count, seed=settings.seed, finish=False, atoms="backbone"
            )  # type: ignore[arg-type]
            made = generate_prepared(net, case.prepared, drawn)
            rows.append(near(f"{name}: {mode}", made.coordinates, case))
    for dimensions in sorted(numbers):
        codec = LinearCodec.pca(case, dimensions)
        for noise in settings.rates:
            point = codec.point(case, noise, settings.seed)
            rows.append({"table": "rates", **vars(point), "method": "pca of the training frames"})
    given = case.coordinates[list(case.given)]
    weights = torch.ones(given.shape[1])
    made = pca_sampling(given, weights, count, generator_for(settings.seed))
    rows.append(near("pca of the training frames, sampled", made, case))
    spaced = [i * len(given) // count for i in range(min(count, len(given)))]
    rows.append(near("training frames, evenly spaced", given[spaced], case))
    rows.append(near("training frames, all", given, case))
    return rows


def near(name: str, made: Tensor, case: EvaluationCase) -> dict[str, Any]:
    """Mean CA-RMSD, Å, of the judged frames to the nearest of (K, L, 3, 3) conformers."""
    real = case.coordinates[list(case.judged)][:, :, CA].double()
    ca = made[:, :, CA].double()
    row = {"table": "nearest", "method": name, "conformers": len(ca)}
    row["all"] = float(pairwise_rmsd(ca, real).amin(0).mean())
    if case.core is not None:
        row["core"] = float(pairwise_rmsd(ca, real, case.core).amin(0).mean())
    return row


def nearest_frames(case: EvaluationCase) -> list[dict[str, Any]]:
    """Distance of held-out frames to the nearest training frame, by how they are held out."""
    ensemble, rows = case.prepared.ensemble, []
    ca = ensemble.coordinates[:, :, CA].double()
    for name, blocks in (("one by one", TimeBlocks()), ("in blocks", TRAJECTORY.split.blocks)):
        train, heldout = divide(
            ensemble.name, model_hashes(ensemble), TRAJECTORY.split.held_out_fraction,
            TRAJECTORY.split.seed, blocks,
        )  # fmt: skip
        nearest = pairwise_rmsd(ca[list(train)], ca[list(heldout)]).amin(0)
        rows.append({
            "table": "split", "method": name, "training": len(train), "held_out": len(heldout),
            "all": float(nearest.mean()),
        })  # fmt: skip
    return rows


STREAM = {
    "frames": 0, "residues": 0, "way": 0, "file_mb": 0, "kept_mb": 0, "setup_s": 1,
    "setup_cpu_s": 1, "per_s": 0, "per_cpu_s": 0, "step_s": 1, "before_mb": 0, "setup_peak_mb": 0,
    "draws_peak_mb": 0, "peak_mb": 0, "own_mb": 0, "files_mb": 0,
}  # fmt: skip
RATES = {"noise": 2, "dimensions": 0, "nats": 3, "ca_core": 3, "ca_all": 3}
NEAREST = {"conformers": 0, "core": 3, "all": 3}
SPLIT = {"training": 0, "held_out": 0, "all": 3}


def cell(row: dict[str, Any], key: str, digits: int) -> str:
    value = row.get(key)
    if isinstance(value, str):
        return value
    return "–" if value is None else number(value, digits)


def table(rows: Sequence[dict[str, Any]], columns: dict[str, int], first: str | None) -> str:
    """A line per row; columns with their digits behind the column ``first``."""
    head = [*([first] if first else []), *(f"`{name}`" for name in columns)]
    body = [
        [*([row["method"]] if first else []), *(cell(row, k, d) for k, d in columns.items())]
        for row in rows
    ]
    return markdown_table(head, body)


def report(options: argparse.Namespace) -> None:
    """Print the tables of what was measured."""
    rows = [
        json.loads(line)
        for path in options.results
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    print(machines_of(rows))
    streamed = [row for row in rows if row["kind"] == "stream"]
    if streamed:
        print(f"\n### Streaming\n\n{table(streamed, STREAM, None)}")
    scored = [row for row in rows if row["kind"] == "score"]
    for name in dict.fromkeys(row["protein"] for row in scored):
        mine = [row for row in scored if row["protein"] == name]
        one = mine[0]
        print(
            f"\n### {name}\n\n{one['residues']} residues, {one['given']} training frames, "
            f"{one['judged']} held out in blocks; {one['steps']} steps in {one['fit_s']:.0f} s "
            f"({one['fit_cpu_s']:.0f} s of processor)."
        )
        for kind, columns, first in (
            ("rates", RATES, "coded by"), ("nearest", NEAREST, "conformers of"),
            ("split", SPLIT, "held out"),
        ):  # fmt: skip
            part = [row for row in mine if row["table"] == kind]
            print(f"\n{table(part, columns, first)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    tasks = parser.add_subparsers(required=True)
    sub = tasks.add_parser("stream", help="time and memory on a simulated trajectory")
    sub.add_argument("--frames", type=int, default=10_000)
    sub.add_argument("--residues", type=int, default=100)
    sub.add_argument("--memory-up-to", type=int, default=10_000, help="frames read into memory")
    sub.add_argument("--draws", type=int, default=1000)
    sub.add_argument("--steps", type=int, default=2, help="of training")
    sub.set_defaults(run=stream)
    once = tasks.add_parser("once", help="one way, in this process")
    once.add_argument("folder", type=Path)
    once.add_argument("--cache", type=Path)
    once.add_argument("--draws", type=int, default=1000)
    once.add_argument("--steps", type=int, default=2)
    once.set_defaults(run=lambda options: print(json.dumps(stream_once(options))))
    scoring = tasks.add_parser("score", help="train on trajectories and judge held-out blocks")
    scoring.add_argument("folders", type=Path, nargs="+")
    scoring.add_argument("--epochs", type=int, default=20)
    scoring.add_argument("--draws", type=int, default=400, help="of an epoch")
    scoring.add_argument("--count", type=int, default=100, help="conformers of each method")
    scoring.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    scoring.add_argument("--seed", type=int, default=0)
    scoring.set_defaults(run=score)
    for part in (sub, scoring):
        part.add_argument("--out", type=Path, required=True, help="lines of JSON")
        part.add_argument("--scratch", type=Path, help="folder with room, for files of the run")
    show = tasks.add_parser("report", help="print tables")
    show.add_argument("results", type=Path, nargs="+")
    show.set_defaults(run=report)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
