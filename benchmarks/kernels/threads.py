"""Training speed by compute threads and loader processes, on an idle and on a busy machine.

    python benchmarks/kernels/threads.py --out runs/threads

Runs the first steps of the quick start's encoder stage, of its joint stage and of a
``protein_cvae`` fit, all of laptop size and on simulated data, under every setting: each run is a
``lightning fit`` command of its own, in turns, first alone and then beside processes that keep
cores busy.  Steps a second count the making of the batches.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from tqdm import tqdm

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import markdown_table, to_json
from spatial_ipa.data.simulation.files import TissuePaths, TissueSpec, ensure_tissue

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"


class Setting(NamedTuple):
    threads: int
    workers: int
    waiting: str


SETTINGS = (
    Setting(1, 0, "passive"),
    Setting(1, 1, "passive"),
    Setting(2, 0, "passive"),
    Setting(2, 1, "passive"),
    Setting(2, 0, "spin"),
)


class StepRate(pl.Callback):
    """Writes the steps a second between two steps and ends the training.

    Args:
        out: file of the number.
        first: step at which the clock starts.
        last: step at which it stops.
    """

    def __init__(self, out: str, first: int = 3, last: int = 23) -> None:
        self.out, self.first, self.last = Path(out), first, last
        self.started = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.first:
            self.started = time.perf_counter()
        elif trainer.global_step == self.last:
            seconds = time.perf_counter() - self.started
            self.out.write_text(str((self.last - self.first) / seconds))
            trainer.should_stop = True


def stages(tissue: TissuePaths, folder: Path) -> dict[str, list[str]]:
    """Arguments of ``lightning fit`` by stage, the loader processes left open."""
    train = f"--data.init_args.train_slides={[str(path) for path in tissue.slides[:3]]}"
    encoder = str(folder / "encoder.pt")
    spatial = CONFIGS / "spatial_ipa"
    protein = CONFIGS / "protein_cvae"
    return {
        "encoder": [
            f"--config={spatial / 'encoder.yaml'}",
            train,
            "--data.init_args.heldout_slides=[]",
            f"--data.init_args.scrna=['{tissue.scrna}']",
            "--data.init_args.simulate=null",
            f"--model.init_args.output={encoder}",
            "--data.init_args.draws.num_workers",
        ],
        "joint": [
            f"--config={spatial / 'fit.yaml'}",
            f"--config={spatial / 'laptop.yaml'}",
            train,
            "--data.init_args.val_slides=[]",
            "--data.init_args.simulate=null",
            f"--data.init_args.encoder.path={encoder}",
            f"--data.init_args.encoder.config={spatial / 'encoder.yaml'}",
            f"--data.init_args.scrna=['{tissue.scrna}']",
            f"--data.init_args.encoder.cache={folder / 'cache'}",
            "--model.init_args.schedule.gate_steps=0",
            "--model.init_args.export=null",
            "--data.init_args.minisets.num_workers",
        ],
        "protein_cvae": [
            f"--config={protein / 'fit.yaml'}",
            f"--config={protein / 'laptop.yaml'}",
            "--model.init_args.export=null",
            "--data.init_args.num_workers",
        ],
    }


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy with processes that do nothing else."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def rate(arguments: list[str], setting: Setting, folder: Path) -> float:
    """Steps a second of one run."""
    out = folder / "rate"
    out.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "OMP_WAIT_POLICY": "PASSIVE" if setting.waiting == "passive" else "ACTIVE",
    }
    *rest, workers = arguments
    command = [sys.executable, "-m", "common.cli", "fit", *rest, f"{workers}={setting.workers}"]
    command += [
        f"--threads={setting.threads}",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.limit_val_batches=0",
        "--trainer.callbacks=threads.StepRate",
        f"--trainer.callbacks.init_args.out={out}",
    ]
    ran = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if not out.exists():
        raise SystemExit(f"no rate was written:\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")
    return float(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed by threads and loaders.")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="cores kept busy")
    parser.add_argument("--stages", nargs="+", default=["encoder", "joint", "protein_cvae"])
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        todo = stages(ensure_tissue(TissueSpec(num_slides=3), folder / "tissue"), folder)
        for busy in args.busy:
            rates: dict[tuple[str, Setting], list[float]] = {}
            with busy_cores(busy):
                for _ in tqdm(range(args.rounds), desc=f"{busy} busy cores"):
                    for stage in args.stages:
                        for setting in SETTINGS:
                            found = rate(todo[stage], setting, folder)
                            rates.setdefault((stage, setting), []).append(found)
            rows += [
                {
                    "stage": stage,
                    "busy cores": busy,
                    **setting._asdict(),
                    "steps per second": statistics.median(found),
                    "slowest": min(found),
                    "fastest": max(found),
                }
                for (stage, setting), found in rates.items()
            ]
    print(describe_machine())
    head = ("stage", "busy cores", "threads", "loaders", "waiting", "steps/s (slowest, fastest)")
    print(
        markdown_table(
            head,
            (
                [
                    *(str(row[k]) for k in ("stage", "busy cores", "threads", "workers")),
                    row["waiting"],
                    f"{row['steps per second']:.2f} ({row['slowest']:.2f}, {row['fastest']:.2f})",
                ]
                for row in rows
            ),
        )
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out / "threads.json") as temporary:
            temporary.write_text(to_json({"machine": describe_machine(), "rows": rows}))


if __name__ == "__main__":
    main()
