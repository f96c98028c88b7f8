"""Resident memory over the steps of a fit whose batches all differ in shape.

    python benchmarks/memory.py run --out MEMORY.jsonl [--steps 2000] [--models protein spatial]
    python benchmarks/memory.py report MEMORY.jsonl --out benchmarks/reports/memory.md

Both models are fitted by a Trainer on the CPU with one thread, each time in a process of its own;
what MEMORY.jsonl has is not measured again.  protein: a small protein_cvae on simulated proteins,
each batch cut to another length of 30 to 160 residues.  spatial: spatial_ipa on minisets of 96 to
384 simulated cells whose edges are dropped at random.  The conditions are settings of
:class:`common.training.memory.SteadyMemory`:

===========  ====================================================================================
plain        neither
trimmed      free pages are given back to the system every 50 steps
no oneDNN    PyTorch's own operations
both         the default of every fit
===========  ====================================================================================

Linux only: the resident size is read from ``/proc``.  Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from common.files.atomic import atomic_path
from common.report.machine import describe_machine, machines_of
from common.report.resources import resident_memory_bytes
from common.report.tables import markdown_table, number, to_json, to_json_lines
from common.rng import generator_for
from common.training.memory import EVERY, SteadyMemory
from common.training.trainer import quiet_trainer
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.in_memory import InMemoryDataModule
from protein_cvae.data.settings import DrawSettings
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.network import NetworkSettings as LayoutSettings
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule

Row = dict[str, Any]
# Settings of SteadyMemory: steps between two trims, oneDNN.
CONDITIONS = {
    "plain": (0, True),
    "trimmed": (EVERY, True),
    "no oneDNN": (0, False),
    "both": (EVERY, False),
}
LENGTHS = (30, 160)  # residues
WIDTH = 32  # of the simulated cells' embeddings
EPOCHS = 4  # the first of spatial_ipa leaves the walks out
POINTS = 8  # of a row
HEAD = """# Memory of a fit

Made by `benchmarks/memory.py` on {machine}.

Resident memory of the process, MB (1e6 bytes), after so many steps of a fit on the CPU whose
batches all differ in shape; small networks. `both` is what every fit does, `trimmed` gives free
pages of the heap back every {every} steps, `no oneDNN` leaves GELU to PyTorch, `plain` is neither.
`added` is the growth from the first column to the last, `ms` processor time of a step.
"""


class OfAllLengths(InMemoryDataModule):
    """Cuts every batch to a length of its own."""

    drawn = 0

    def on_after_batch_transfer(self, batch: ProteinBatch, dataloader_idx: int) -> ProteinBatch:
        self.drawn += 1
        shortest, longest = LENGTHS
        generator = generator_for(0, self.drawn)
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return first_residues(batch, min(length, batch.length))


def first_residues(batch: ProteinBatch, length: int) -> ProteinBatch:
    """The batch without what comes after residue ``length`` of each item."""
    names = ("coordinates", "mask", "template", "template_mask", "aatype", "embedding",
             "chain_index", "residue_index", "core")  # fmt: skip
    bonded = batch.bonded[:, :length].clone()
    bonded[:, -1] = False
    return replace(batch, bonded=bonded, **{n: getattr(batch, n)[:, :length] for n in names})


class Resident(pl.Callback):
    """Notes the resident memory, in MB, after the first step and every so many."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.megabytes: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        step = trainer.global_step
        if step == 1 or step % self.every == 0:
            self.megabytes[step] = resident_memory_bytes() / 1e6


def protein(steps: int) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """A small protein_cvae, and two conformers of simulated proteins a step."""
    longest = LENGTHS[1]
    ensembles = simulate_ensembles(2, 6, longest, longest)
    draws = DrawSettings(batch_proteins=2, models_per_protein=1, per_epoch=2 * steps // EPOCHS)
    network = NetworkSettings(
        width=64,
        layers=1,
        condition_layers=1,
        heads=2,
        feed_forward=128,
        hidden=32,
        decoder_layers=1,
        chain_neighbors=8,
        spatial_neighbors=12,
    )
    return ProteinCVAEModule(network), OfAllLengths(ensembles, draws=draws)


def spatial(steps: int) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """spatial_ipa on embeddings that are waves over the plane, with noise; two minisets a step."""
    rng = np.random.default_rng(0)
    xy = rng.random((1500, 2))
    waves = np.sin(2 * np.pi * (xy @ rng.standard_normal((2, WIDTH)) + rng.random(WIDTH)))
    h = waves + 0.3 * rng.standard_normal(waves.shape)
    start = 2 * xy - 1 + 0.3 * rng.standard_normal(xy.shape)
    slide = EmbeddedSlide(
        "waves", h.astype(np.float32), xy.astype(np.float32), start=start.astype(np.float32)
    )
    settings = MinisetSettings(
        per_epoch=2 * steps // EPOCHS, batch_size=2, num_candidates=40, num_rows=32
    )
    module = SpatialIPAModule(LayoutSettings(WIDTH), schedule=Schedule(gate_steps=1, ramp_epochs=1))
    return module, MinisetDataModule([slide], [], settings)


MODELS = {"protein": protein, "spatial": spatial}


def measure(model: str, condition: str, steps: int) -> Row:
    """A row of the results: one fit in this process."""
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    module, data = MODELS[model](steps)
    every, onednn = CONDITIONS[condition]
    resident = Resident(max(1, steps // POINTS))
    callbacks = [SteadyMemory(every, onednn), resident]
    trainer = quiet_trainer(EPOCHS, callbacks=callbacks, limit_val_batches=0)
    start = time.process_time()
    trainer.fit(module, datamodule=data)
    return {
        "model": model,
        "condition": condition,
        "steps": steps,
        "ms": 1e3 * (time.process_time() - start) / steps,
        "resident": resident.megabytes,
        "machine": describe_machine(),
    }


def _in_child(connection: Connection, model: str, condition: str, steps: int) -> None:
    connection.send(measure(model, condition, steps))


def in_process(model: str, condition: str, steps: int) -> Row:
    """:func:`measure` in a process of its own, that no other fit has grown.

    Raises:
        RuntimeError: if it fails; its traceback stands above.
    """
    # A fork, as nothing has been computed here yet: the imports take longer than a short fit.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(theirs, model, condition, steps))
    child.start()
    theirs.close()
    try:
        row: Row = ours.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"{model}, {condition}: status {child.exitcode}") from None
    child.join()
    return row


def read_rows(path: Path) -> list[Row]:
    """The rows of earlier runs; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(out: Path, models: Sequence[str], conditions: Sequence[str], steps: int) -> None:
    """Measure what ``out`` lacks, and add it there row by row."""
    rows = read_rows(out)
    known = {(row["model"], row["condition"], row["steps"]) for row in rows}
    for model in models:
        for condition in conditions:
            if (model, condition, steps) in known:
                continue
            rows.append(json.loads(to_json(in_process(model, condition, steps))))
            with atomic_path(out) as temporary:
                temporary.write_text(to_json_lines(rows), encoding="utf-8")
            print(tables(rows[-1:]), flush=True)


def tables(rows: Sequence[Row]) -> str:
    """A table for each model and number of steps."""
    parts = []
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["steps"]) == (model, steps)]
        points = list(chosen[0]["resident"])
        lines = [
            [
                row["condition"],
                *(number(row["resident"][point], 0) for point in points),
                number(row["resident"][points[-1]] - row["resident"][points[0]], 0),
                number(row["ms"], 1),
            ]
            for row in chosen
        ]
        table = markdown_table(["condition", *points, "added", "ms"], lines)
        parts.append(f"## {model}, {steps} steps\n\n{table}\n")
    return "\n".join(parts)


def report(rows: Sequence[Row]) -> str:
    """The page of all rows."""
    return HEAD.format(machine=machines_of(rows), every=EVERY) + "\n" + tables(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run", help="measure what the file lacks")
    measuring.add_argument("--out", type=Path, required=True, help="JSON lines")
    measuring.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    measuring.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    measuring.add_argument("--steps", type=int, default=2000, help=f"at least {EPOCHS * POINTS}")
    writing = commands.add_parser("report", help="write the page of a file of results")
    writing.add_argument("rows", type=Path)
    writing.add_argument("--out", type=Path, required=True, help="Markdown")
    args = parser.parse_args(arguments)
    if args.command == "report":
        with atomic_path(args.out) as temporary:
            temporary.write_text(report(read_rows(args.rows)), encoding="utf-8")
        return
    if args.steps < EPOCHS * POINTS:
        parser.error(f"--steps must be at least {EPOCHS * POINTS}, got {args.steps}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    run(args.out, args.models, args.conditions, args.steps)


if __name__ == "__main__":
    main()
