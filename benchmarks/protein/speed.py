"""How long protein_cvae takes: an epoch of training, the parts of a step, a conformer.

    python benchmarks/protein/speed.py --data DATA --ckpt runs/protein_cvae.ckpt --out SPEED.json

DATA holds ``nmr/`` (files with several models) and, if there, ``md/`` (folders of trajectories);
without it ensembles are simulated.  Short: nothing is trained to an end.

* Training: ``--steps`` steps of the configuration (by default the laptop's) by a Trainer, after
  two that do not count.  An epoch is its number of steps times the mean; validation is not in it.
* Parts of a step: "data" is from the end of a step to the start of the next (drawing, collating,
  the Trainer itself); "prior" the KL terms and the draw from the prior; the decoder runs twice, on
  a posterior and on a prior draw.  Parts inside another count only there.
* Generating: 2sdf (67 residues), adenylate kinase (214) and a simulated chain of 500, or simulated
  ones of all lengths; ``--count`` conformers per call of ``protein_cvae.generation.generate`` from
  one structure, with geometry finished and without; median of ``--repeats`` calls after one more.

``--clock cpu`` counts processor time, all threads together: on a busy machine that is closer to
what one thread takes on an idle one.  The weights are those of ``--ckpt``; without it untrained
ones, which leave the finisher other work.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from experiment import merged
from jsonargparse import ArgumentParser

import protein_cvae.module
from common.files.atomic import atomic_path
from common.report.machine import processor
from common.report.resources import Stopwatch
from common.report.tables import markdown_table, number, to_json
from common.training.trainer import quiet_trainer
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.io import load_ensemble
from protein_cvae.module import ProteinCVAEModule

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "configs" / "protein_cvae" / f"{name}.yaml" for name in ("fit", "laptop")]
WARM_UP = 2
# Real proteins of these lengths below --data.
REAL = {67: "nmr/2sdf.pdb.gz", 214: "md/adk"}
PARTS = ("data", "condition", "encoder", "prior", "decoder", "losses", "rest of the forward",
         "backward", "optimiser")  # fmt: skip


@contextmanager
def watching(watch: Stopwatch, module: ProteinCVAEModule) -> Iterator[None]:
    """Time the parts of this module's forward."""
    parts = [
        (module.model, "condition", "condition"),
        (module.model, "encode", "encoder"),
        (protein_cvae.module, "kl_terms", "prior"),
        (module.model, "sample_prior", "prior"),
        (module.model, "decode", "decoder"),
        (protein_cvae.module, "fit_terms", "losses"),
        (protein_cvae.module, "geometry_terms", "losses"),
    ]
    patches = [
        patch.object(owner, name, watch.timed(part, getattr(owner, name)))
        for owner, name, part in parts
    ]
    for change in patches:
        change.start()
    try:
        yield
    finally:
        for change in patches:
            change.stop()


class StepTimes(pl.Callback):
    """Seconds of each step after the warm-up, and where they went."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.watch.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps: list[float] = []
        self.mark = self.start = 0.0
        self.parts: list[dict[str, float]] = []

    def _until_now(self, part: str) -> None:
        now = self.watch.clock()
        self.watch.seconds[part] += now - self.mark
        self.mark = now

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = self.mark = self.watch.clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._until_now("data")

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        inner = ("condition", "encoder", "prior", "decoder", "losses")
        known = sum(self.watch.seconds[part] for part in inner)
        self._until_now("rest of the forward")
        self.watch.seconds["rest of the forward"] -= known

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._until_now("backward")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._until_now("optimiser")
        if batch_idx >= WARM_UP:
            self.steps.append(self.mark - self.start)
            self.parts.append(dict(self.watch.seconds))
        self.watch.seconds = dict.fromkeys(PARTS, 0.0)
        self.start = self.mark


def read(options: argparse.Namespace) -> tuple[ProteinCVAEModule, EnsembleDataModule]:
    """Model and data of the configuration, the data replaced by ``--data``."""
    config = merged(options.config)
    made, wanted = config["data"]["init_args"], config["model"]["init_args"]
    wanted["export"] = None
    if options.data is not None:
        md = options.data / "md"
        made |= {
            "sources": made.get("sources", {})
            | {
                "structures": [str(options.data / "nmr")],
                "trajectories": [str(md)] if md.is_dir() else [],
            },
            "simulate": None,
        }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EnsembleDataModule, "data")
    parser.add_subclass_arguments(ProteinCVAEModule, "model")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # before 4.49
    torch.manual_seed(0)
    found = instantiate(parser.parse_object({k: config[k] for k in ("data", "model")}))
    data: EnsembleDataModule = found.data
    data.setup("fit")
    return found.model, data


def time_training(
    module: ProteinCVAEModule,
    data: EnsembleDataModule,
    steps: int,
    clip: float | None,
    clock: Clock,
) -> dict[str, Any]:
    """Seconds per step and epoch, and of the parts of a step."""
    watch = Stopwatch(clock)
    times = StepTimes(watch)
    trainer = quiet_trainer(
        1,
        limit_train_batches=steps + WARM_UP,
        limit_val_batches=0,
        callbacks=[times],
        gradient_clip_val=clip,
    )
    with watching(watch, module):
        trainer.fit(module, datamodule=data)
    if len(times.steps) < steps:
        raise SystemExit(
            f"--steps {steps}: an epoch of this configuration has {len(times.steps)} steps after "
            f"{WARM_UP} of warm-up; ask for at most as many"
        )
    per_epoch = -(-data.draws.per_epoch // data.draws.batch_proteins)
    mean = statistics.fmean(times.steps)
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "ensembles": len(data.known),
        "steps_timed": len(times.steps),
        "seconds_per_step": mean,
        "seconds_per_step_sd": statistics.stdev(times.steps) if steps > 1 else None,
        "steps_per_epoch": per_epoch,
        "seconds_per_epoch": per_epoch * mean,
        "parts": {part: statistics.fmean(step[part] for step in times.parts) for part in PARTS},
    }


def protein(length: int, data: Path | None) -> Ensemble:
    """A real protein of this length below ``data``, else a simulated one; two models."""
    if data is not None and length in REAL and (data / REAL[length]).exists():
        ensemble = load_ensemble(data / REAL[length], max_frames=2).select_chain("longest")
        ensemble = ensemble.select_models([0, 1])
        if ensemble.length == length:
            return ensemble
    (ensemble,) = simulate_ensembles(1, 2, length, length)
    return ensemble


def time_generation(
    module: ProteinCVAEModule, ensemble: Ensemble, count: int, repeats: int, clock: Clock
) -> dict[str, Any]:
    """Seconds per conformer, finished and not."""
    row: dict[str, Any] = {"protein": ensemble.name, "residues": ensemble.length, "count": count}
    for name, finish in (("finished", True), ("decoded", False)):
        seconds = []
        for repeat in range(repeats + 1):
            options = GenerateOptions(mode="prior", count=count, finish=finish, seed=repeat)
            start = clock()
            generate(module.model, ensemble, options)
            seconds.append((clock() - start) / count)
        row[name] = statistics.median(seconds[1:])
        row[f"{name}_range"] = [min(seconds[1:]), max(seconds[1:])]
    return row


def tables(found: dict[str, Any]) -> str:
    """Markdown of what was measured."""
    step = found["training"]
    parts, whole = step["parts"], step["seconds_per_step"]
    lines = [
        f"`{found['command']}`",
        "",
        f"{found['machine']}, {found['threads']} thread(s), torch {found['torch']}, "
        f"{found['clock']} time, load {found['load'][0]:.1f} at the start and "
        f"{found['load'][1]:.1f} at the end.",
        "",
        f"Training: {whole:.3f} s per step (sd {step['seconds_per_step_sd'] or 0:.3f} over "
        f"{step['steps_timed']} steps), {step['seconds_per_epoch']:.0f} s per epoch of "
        f"{step['steps_per_epoch']} steps; {step['ensembles']} ensembles, "
        f"{step['parameters']:,} parameters.",
        "",
        markdown_table(
            ["part of a step", "ms", "share"],
            [[part, number(1e3 * s, 1), f"{s / whole:.1%}"] for part, s in parts.items()],
        ),
        "",
        markdown_table(
            ["protein", "residues", "s per conformer, finished (range)", "decoded only",
             "conformers"],
            [_generation_cells(row) for row in found["generation"]],
        ),
        "",
        f"Conformers by {'a trained' if found['trained'] else 'an untrained'} model.",
    ]  # fmt: skip
    return "\n".join(lines)


def _generation_cells(row: dict[str, Any]) -> list[str]:
    spread = " to ".join(number(seconds) for seconds in row["finished_range"])
    finished = f"{number(row['finished'])} ({spread})"
    return [row["protein"], str(row["residues"]), finished, number(row["decoded"]),
            str(row["count"])]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How long protein_cvae takes.")
    parser.add_argument("--data", type=Path, help="folder with nmr/ and md/; simulated without")
    parser.add_argument("--config", type=Path, nargs="+", default=CONFIGS)
    parser.add_argument("--ckpt", type=Path, help="trained model of the generating part")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--lengths", type=int, nargs="*", default=[67, 214, 500])
    parser.add_argument("--count", type=int, default=8, help="conformers per call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    for name in ("steps", "count", "repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(options.threads)
    clock, load = CLOCKS[options.clock], [os.getloadavg()[0]]
    module, data = read(options)
    clip = merged(options.config).get("trainer", {}).get("gradient_clip_val")
    training = time_training(module, data, options.steps, clip, clock)
    if options.ckpt is not None:
        module = ProteinCVAEModule.load_from_checkpoint(
            options.ckpt, map_location="cpu", weights_only=True
        )
    generation = [
        time_generation(
            module, protein(length, options.data), options.count, options.repeats, clock
        )
        for length in options.lengths
    ]
    found = {
        "command": " ".join(
            ["benchmarks/protein/speed.py", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "machine": processor(),
        "threads": options.threads,
        "clock": options.clock,
        "torch": torch.__version__,
        "load": [*load, os.getloadavg()[0]],
        "trained": options.ckpt is not None,
        "training": training,
        "generation": generation,
    }
    print(tables(found))
    if options.out is not None:
        with atomic_path(options.out) as partial:
            partial.write_text(to_json(found, indent=2, escape=True), encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # for this process alone
    main()
