"""`lightning predict` on many simulated cells: seconds of every stage, memory, and accuracy.

    python3 -m common.bootstrap run                                      # the quick start's model
    python benchmarks/spatial/scale.py --ckpt runs/quickstart/spatial_ipa.ckpt --cells 10000 100000

Cells are dissociated from the tissue that the quick start's slides come from; their true positions
are known and kept apart.  Every size runs the whole command in a process of its own, from h5ad to
h5ad.  Prints the stage table of each, the largest resident memory, and the Spearman correlation of
predicted with true pairwise distances; ``--out`` keeps them as JSON, and the simulated files.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.stats import spearmanr

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import markdown_table, number, to_json
from spatial_ipa.data.simulation.files import TissueSpec, simulate_tissue

_PAIRS = 200_000


def simulated(cells: int, folder: Path) -> tuple[Path, Path]:
    """The cells' file and that of their true positions; kept ones are used again."""
    path, truth = folder / f"cells_{cells}.h5ad", folder / f"truth_{cells}.npy"
    if not (path.exists() and truth.exists()):
        start = time.perf_counter()
        tissue = simulate_tissue(replace(TissueSpec(), num_cells=cells))
        with atomic_path(path) as partial:
            tissue.scrna.write_h5ad(partial)
        with atomic_path(truth) as partial, partial.open("wb") as file:
            np.save(file, tissue.scrna_true_xy)
        print(f"simulated {cells} cells in {time.perf_counter() - start:.0f} s", flush=True)
    return path, truth


def predicted(path: Path, output: Path, args: argparse.Namespace) -> tuple[str, float]:
    """Run the command; what it printed, and the largest resident memory of any child so far."""
    command = [
        *(sys.executable, "-m", "common.cli", "predict"),
        *("--config", "configs/spatial_ipa/predict.yaml"),
        *("--ckpt_path", str(args.ckpt)),
        f"--data.init_args.input={path}",
        f"--data.init_args.output={output}",
        "--data.init_args.overwrite=true",
        f"--data.init_args.placement.num_draws={args.draws}",
        f"--data.init_args.placement.write_graph={str(not args.no_graph).lower()}",
        f"--trainer.accelerator={args.accelerator}",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        raise RuntimeError(f"lightning predict failed with status {process.returncode}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return "".join(lines), peak


def stage_seconds(printed: str) -> dict[str, float]:
    """Stage by stage, from the table that ends the command's output."""
    rows = (line.split() for line in printed.splitlines())
    return {row[0]: float(row[1]) for row in rows if len(row) > 5 and row[2] == "s"}


def spearman(xy: np.ndarray, truth: np.ndarray) -> float:
    """Of the distances of random pairs."""
    i, j = np.random.default_rng(0).integers(0, len(xy), (2, _PAIRS))
    found, true = (np.linalg.norm(a[i] - a[j], axis=1) for a in (xy, truth))
    return float(spearmanr(found, true).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ckpt", type=Path, required=True, help="export of the quick start")
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--draws", type=int, default=2, help="layouts averaged (16 for radii)")
    parser.add_argument("--no-graph", action="store_true", help="without the gate graph")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/predict_scale"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(threads=args.threads)
    print(machine, flush=True)
    rows: list[dict[str, Any]] = []
    for cells in sorted(args.cells):  # so that the peak of all children is that of the latest
        path, truth = simulated(cells, args.out)
        output = args.out / f"placed_{cells}.h5ad"
        start = time.perf_counter()
        printed, peak = predicted(path, output, args)
        with h5py.File(output) as file:
            xy = file["obsm/X_spatial_ipa"][:]
        rows.append(
            {
                "cells": cells,
                "machine": machine,
                "draws": args.draws,
                "graph": not args.no_graph,
                "seconds": time.perf_counter() - start,
                "stages": stage_seconds(printed),
                "peak_gb": peak,
                "spearman": spearman(xy, np.load(truth)),
            }
        )
        with atomic_path(args.out / "predict_scale.json") as partial:
            partial.write_text(to_json(rows), encoding="utf-8")
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    cells = (
        [
            str(row["cells"]),
            number(row["seconds"], 0),
            *(number(row["stages"].get(stage, 0.0), 1) for stage in stages),
            number(row["peak_gb"], 2),
            number(row["spearman"], missing="nan"),
        ]
        for row in rows
    )
    head = ["cells", "total s", *stages, "peak GB", "Spearman"]
    print(f"\n{markdown_table(head, cells)}")


if __name__ == "__main__":
    main()
