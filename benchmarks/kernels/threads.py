"""Training speed by compute threads and loader processes, on an idle and on a busy machine.

    python benchmarks/kernels/threads.py --out runs/threads

Simulates a small tissue, then trains the joint stage of spatial_ipa at laptop size for a number of
steps under every setting, each in a process of its own, in turns, first alone and then beside
processes that keep cores busy.  Steps a second count building the minisets, as training does.
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

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from training_step import embedded, step

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import to_json
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.model.minisets import collate
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings

# Threads, loader processes, what waiting threads do.
SETTINGS = (
    (1, 0, "passive"),
    (1, 1, "passive"),
    (2, 0, "passive"),
    (2, 0, "default"),
    (2, 1, "passive"),
)


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


def train(slides: list[str], threads: int, workers: int, steps: int) -> float:
    """Steps a second of the joint stage in this process, from its second step on."""
    torch.set_num_threads(threads)
    settings = MinisetSettings(
        per_epoch=4 * (steps + 1), batch_size=4, num_rows=64, num_workers=workers
    )
    data = MinisetDataModule(embedded(slides), [], settings)
    torch.manual_seed(0)
    module = SpatialIPAModule()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    started = 0.0
    loader = DataLoader(data.train_dataset(), 4, num_workers=workers, collate_fn=collate)
    for number, batch in enumerate(loader):
        step(module, batch, optimizer)
        if number == 0:
            started = time.perf_counter()
    return steps / (time.perf_counter() - started)


def measure(slides: list[str], setting: tuple[int, int, str], steps: int) -> float:
    threads, workers, waiting = setting
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("OMP_WAIT_POLICY", None)
    if waiting == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    child = [sys.executable, __file__, "--child", *slides]
    child += ["--threads", str(threads), "--workers", str(workers), "--steps", str(steps)]
    return float(subprocess.check_output(child, env=environment, text=True).split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed by threads and loaders.")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="cores kept busy")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(train(args.child, args.threads, args.workers, args.steps))
        return
    with tempfile.TemporaryDirectory() as folder:
        tissue = ensure_tissue(TissueSpec(num_slides=3), Path(folder))
        slides = [str(path) for path in tissue.slides]
        rows = []
        for busy in args.busy:
            rates: dict[tuple[int, int, str], list[float]] = {s: [] for s in SETTINGS}
            with busy_cores(busy):
                for _ in tqdm(range(args.rounds), desc=f"{busy} busy cores"):
                    for setting in SETTINGS:
                        rates[setting].append(measure(slides, setting, args.steps))
            rows += [
                {
                    "busy cores": busy,
                    "threads": threads,
                    "loader processes": workers,
                    "waiting": waiting,
                    "steps per second": statistics.median(rates[threads, workers, waiting]),
                    "slowest": min(rates[threads, workers, waiting]),
                    "fastest": max(rates[threads, workers, waiting]),
                }
                for threads, workers, waiting in SETTINGS
            ]
    print("| busy cores | threads | loaders | waiting | steps/s (slowest, fastest) |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['busy cores']} | {row['threads']} | {row['loader processes']} | "
            f"{row['waiting']} | {row['steps per second']:.2f} ({row['slowest']:.2f}, "
            f"{row['fastest']:.2f}) |"
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out / "threads.json") as temporary:
            temporary.write_text(to_json({"machine": describe_machine(), "rows": rows}))


if __name__ == "__main__":
    main()
