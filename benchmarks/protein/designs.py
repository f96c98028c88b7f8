"""The two sequence designs of protein_cvae compared: shared states and separate latents.

    python benchmarks/protein/designs.py run --data DATA --out runs/designs      # resumable
    python benchmarks/protein/designs.py report --out runs/designs --report REPORT.md

DATA holds ``nmr/`` (files with several models) and, if there, ``md/`` (folders of trajectories).
All runs have the same small model, data, split and number of steps, and differ in
``sequence_design`` and in the seed of weights, draws and noise.  Per protein, over up to four
judged models decoded from posterior means against the central given model:

* accuracy: residues named right when the sequence is given; this is how well latents, or in the
  shared design the decoder, which sees the condition, carry it, and no recovery;
* recovery: the same with the sequence withheld from encoder, condition and prior;
* commonest: always naming the commonest residue of the training proteins;
* RMSD of CA in Å after superposition, with the template and without, decoder output unfinished.

Proteins weigh alike; known are held-out models of training proteins, unseen other families.  The
accuracy on known proteins is also taken along the training: it says whether a design has converged.

``run`` appends one line per design and seed to ``<out>/results.jsonl`` and skips those that are
there.  A killed training continues from its last checkpoint in ``<out>/<design>-<seed>``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from common.align import aligned_rmsd
from common.errors import UserError
from common.files.atomic import atomic_path
from common.report.machine import processor
from common.report.tables import markdown_table
from common.training.trainer import quiet_trainer
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import (
    DrawSettings,
    SimulationSettings,
    Sources,
    SplitSettings,
)
from protein_cvae.evaluation.metrics import sequence_recovery
from protein_cvae.geometry.constants import CA
from protein_cvae.model.sampling import evaluating
from protein_cvae.model.settings import NetworkSettings, SequenceDesign
from protein_cvae.module import OptimizerSettings, ProteinCVAEModule

Row = dict[str, Any]
DESIGNS: tuple[SequenceDesign, ...] = ("shared", "separate")
GROUPS = {"known": "held-out models of known proteins", "unseen": "proteins of unseen families"}
MEASURES = {
    "accuracy": "accuracy, sequence given",
    "recovery": "recovery, sequence withheld",
    "commonest": "commonest residue",
    "rmsd": "CA RMSD, Å",
    "rmsd_free": "CA RMSD without template, Å",
}
# One of each family that is kept out; their relatives follow.
HELD_OUT = ("1tap", "2jr2", "6pvr", "2ln3", "1ryg")
# Relatives that sequence identity cannot see.
FAMILIES = (
    ("1adz", "1tap", "md_bpti"),
    ("2sdf", "2jp1"),
    ("1iv6", "2m2e", "2l9r"),
    ("drk_sh3", "md_drk_sh3"),
    ("md_ctl9", "md_ntl9"),
    ("6pvr", "6pvt"),
)
EPOCHS = 6  # points of the learning curve, and places to resume from
JUDGED = 4  # models per protein
CHUNK = 16


class LearningCurve(pl.Callback):
    """Accuracy on one judged model of each known protein, sequence given, after every epoch."""

    def __init__(self, cases: Sequence[EvaluationCase]) -> None:
        self.items = [case.item(case.judged[0]) for case in cases]
        self.points: list[tuple[int, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ProteinCVAEModule)
        right = []
        with evaluating(pl_module.model):
            for start in range(0, len(self.items), CHUNK):
                batch = collate(self.items[start : start + CHUNK])
                decoded, _, condition, _ = pl_module.model.reconstruct(batch)
                hit = (decoded.logits.argmax(-1) == batch.aatype) & condition.mask
                right += (hit.sum(1) / condition.mask.sum(1)).tolist()
        self.points.append((trainer.global_step, statistics.fmean(right)))

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [(int(step), float(value)) for step, value in state_dict["points"]]


def read_data(options: argparse.Namespace) -> EnsembleDataModule:
    """The ensembles below ``--data``; simulated ones without it."""
    if options.data is None:
        made = SimulationSettings(num_proteins=4, num_models=6, min_length=24, max_length=28)
        paths: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        split = SplitSettings(("simulated_0_3",))
    else:
        made, split = SimulationSettings(), SplitSettings(HELD_OUT, FAMILIES)
        if not (options.data / "nmr").is_dir():
            raise UserError(f"--data {options.data}: expected a folder with nmr/ and maybe md/")
        md = options.data / "md"
        paths = (str(options.data / "nmr"),), (str(md),) if md.is_dir() else ()
    data = EnsembleDataModule(
        Sources(*paths, max_length=options.max_length),
        made,
        split,
        DrawSettings(
            batch_proteins=4, models_per_protein=2, per_epoch=4 * (options.steps // EPOCHS)
        ),
    )
    data.setup("fit")
    return data


def build(design: SequenceDesign, seed: int) -> ProteinCVAEModule:
    """A small model, the same for all designs but for the sequence head."""
    torch.manual_seed(seed)
    sizes = NetworkSettings(
        width=128, layers=2, condition_layers=1, heads=4, feed_forward=256, hidden=64,
        decoder_layers=2, chain_neighbors=8, spatial_neighbors=12, sequence_design=design,
    )  # fmt: skip
    return ProteinCVAEModule(sizes, optimizer=OptimizerSettings(lr=1e-3), seed=seed)


def train(
    design: SequenceDesign, seed: int, data: EnsembleDataModule, folder: Path
) -> tuple[ProteinCVAEModule, list[tuple[int, float]]]:
    """Train, or go on from ``folder/last.ckpt``; the module and its learning curve."""
    module, cases = build(design, seed), data.cases
    data.draws = replace(data.draws, seed=seed)  # of the draws; the split does not depend on it
    curve = LearningCurve([case for case in cases if not case.unseen])
    trainer = quiet_trainer(
        EPOCHS,
        enable_checkpointing=True,
        # Without a monitor the one that is kept is the latest.
        callbacks=[curve, ModelCheckpoint(folder, "last", enable_version_counter=False)],
        gradient_clip_val=1.0,
        limit_val_batches=0,
    )
    last = folder / "last.ckpt"
    trainer.fit(
        module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True
    )
    return module, curve.points


def measure(module: ProteinCVAEModule, cases: EvaluationCases) -> dict[str, dict[str, float]]:
    """Means over the proteins of each group; see the module's docstring."""
    found: dict[str, list[dict[str, float]]] = {group: [] for group in GROUPS}
    with evaluating(module.model):
        for case in cases:
            judged = case.judged[:JUDGED]
            truth = case.prepared.ensemble.aatype.expand(len(judged), -1)
            whole = torch.ones_like(truth, dtype=torch.bool)
            (named, x), (unaided, _), (_, free) = (
                _decoded(module, [case.item(m, **withheld) for m in judged])
                for withheld in ({}, {"sequence": False}, {"template": False})
            )
            wanted = case.coordinates[list(judged)][:, :, CA]
            given = sequence_recovery(named, truth, whole, case.training_aatype)
            found[case.group].append(
                {
                    "accuracy": given.recovery,
                    "recovery": sequence_recovery(unaided, truth, whole).recovery,
                    "commonest": given.commonest,
                    "rmsd": float(aligned_rmsd(x, wanted, whole).mean()),
                    "rmsd_free": float(aligned_rmsd(free, wanted, whole).mean()),
                }
            )
    return {
        group: {name: statistics.fmean(row[name] for row in rows) for name in MEASURES}
        | {"proteins": len(rows)}
        for group, rows in found.items()
        if rows
    }


def _decoded(module: ProteinCVAEModule, items: list[ProteinBatch]) -> tuple[Tensor, Tensor]:
    """Residue types (J, L) and CA (J, L, 3) of posterior means."""
    decoded, *_ = module.model.reconstruct(collate(items))
    return decoded.logits.argmax(-1), decoded.coordinates[:, :, CA]


def run(options: argparse.Namespace) -> None:
    """Train and score what is missing in results.jsonl."""
    torch.set_num_threads(options.threads)
    data = read_data(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    key = {
        "steps": options.steps // EPOCHS * EPOCHS,
        "max_length": options.max_length,
        "split": data.split.digest,
    }
    done = {(row["design"], row["seed"], *(row[k] for k in key)) for row in read(path)}
    for seed in options.seeds:
        for design in options.designs:
            if (design, seed, *key.values()) in done:
                continue
            start = time.perf_counter()
            # Settings in the name: a checkpoint is never resumed with others.
            folder = options.out / f"{design}-{seed}-{key['steps']}-{key['split'][:8]}"
            module, curve = train(design, seed, data, folder)
            trained = time.perf_counter()
            scores = measure(module, data.cases)
            row = {
                "design": design,
                "seed": seed,
                **key,
                **scores,
                "curve": curve,
                "parameters": sum(p.numel() for p in module.parameters()),
                "seconds": [trained - start, time.perf_counter() - trained],
                "threads": options.threads,
                "torch": torch.__version__,
                "machine": processor(),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            shutil.rmtree(folder)
            shown = {g: {k: round(v, 3) for k, v in s.items()} for g, s in scores.items()}
            print(f"{design} {seed}: {shown} ({trained - start:.0f} s)", flush=True)


def read(path: Path) -> list[Row]:
    """Lines of a results file; none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def report(options: argparse.Namespace) -> None:
    """Print the tables, and write them to ``--report``."""
    path = options.out / "results.jsonl"
    rows = read(path)
    if not rows:
        raise SystemExit(f"{path} holds no results; run the benchmark first")
    if len({(r["steps"], r["max_length"], r["split"]) for r in rows}) > 1:
        raise SystemExit(f"{path} holds several experiments; use one folder for each")
    text = report_text(rows)
    print(text)
    if options.report is not None:
        with atomic_path(options.report) as partial:
            partial.write_text(text, encoding="utf-8")


def report_text(rows: Sequence[Row]) -> str:
    """Tables in Markdown: mean ± standard deviation over seeds, per group and design."""
    first = rows[0]
    lines = [
        "# Sequence designs of protein_cvae",
        "",
        f"{first['steps']} steps of 4 proteins x 2 conformers, proteins of at most "
        f"{first['max_length']} residues, {first['threads']} thread(s), {first['machine']}, torch "
        f"{first['torch']}. Mean ± standard deviation over seeds; measures: see "
        "`benchmarks/protein/designs.py`.",
    ]
    for group, title in GROUPS.items():
        there = [row for row in rows if group in row]
        if not there:
            continue
        lines += ["", f"## {title[0].upper()}{title[1:]} ({there[0][group]['proteins']})", ""]
        body = []
        for design in DESIGNS:
            mine = [row for row in there if row["design"] == design]
            if mine:
                cells = [spread([row[group][name] for row in mine]) for name in MEASURES]
                body.append([design, str(len(mine)), *cells])
        lines += [markdown_table(["design", "seeds", *MEASURES.values()], body)]
    steps = [step for step, _ in first["curve"]]
    lines += ["", "## Accuracy on known proteins along the training (sequence given)", ""]
    body = []
    for design in DESIGNS:
        mine = [row for row in rows if row["design"] == design]
        if mine:
            columns = zip(*([value for _, value in row["curve"]] for row in mine), strict=True)
            cells = [spread(list(column)) for column in columns]
            # A training that was resumed counts only its last part.
            cells.append(f"{statistics.median(row['seconds'][0] for row in mine) / steps[-1]:.2f}")
            body.append([design, *cells])
    head = ["design", *(f"{step} steps" for step in steps), "s per step"]
    lines += [markdown_table(head, body)]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, three decimals; the mean alone of one value."""
    mean = statistics.fmean(values)
    if len(values) < 2 or math.isnan(mean):
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Sequence designs of protein_cvae compared.")
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--data", type=Path, help="folder with nmr/ and md/; simulated without")
    parser.add_argument("--out", type=Path, default=Path("runs/designs"))
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--steps", type=int, default=600, help=f"at least {EPOCHS}")
    parser.add_argument("--max-length", type=int, default=100, help="residues; at least 83")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.steps < EPOCHS:
        parser.error(f"--steps must be at least {EPOCHS}, got {options.steps}")
    warnings.filterwarnings("ignore", module="lightning")
    run(options) if options.command == "run" else report(options)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # for this process alone
    print(f"command: {' '.join(sys.argv)}")
    main()
