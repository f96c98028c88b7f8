"""Encoder and embedding of many slides, kept in memory or read from their files as needed.

    python benchmarks/spatial/streaming.py                                  # 20 slides, 2,000 spots
    python benchmarks/spatial/streaming.py --slides 200 --spots 5000 --genes 20000 --density 0.1

Writes simulated sparse slides to a folder (by default a temporary one): spots on a jittered grid,
counts of genes whose rate follows position in part of them.  Then, in a process of its own for each
of both ways, everything up to what the network is trained on is done:

    read      read, check and hash all slides, declare the split, choose the panel
    fit       the encoder's start in closed form
    embed     H of all training slides, out of fold
    draws     training minibatches of the encoder: rows of two slides, two views of each

Prints seconds, cells a second and the largest resident memory after each, and whether the encoders
and H of both are the same.  ``--ways streamed`` runs one alone, where the other would not fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import write_elem
from pandas import DataFrame

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.resources import peak_memory_bytes
from common.report.tables import markdown_table, number, to_json
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.eigenmaps import fit_eigenmaps
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.encoder.settings import DrawSettings, GeneSettings, StartSettings
from spatial_ipa.encoder.training_slides import embed_training
from spatial_ipa.encoder.views import ViewDataset

_WAYS = {"in memory": None, "streamed": 0.0}
_BLOCK = 500  # spots simulated at once
_FACTORS = 12  # spatial patterns that genes follow


def write_slide(path: Path, args: argparse.Namespace, number: int) -> None:
    """One simulated slide, block by block: most genes follow none of the spatial patterns."""
    tissue, rng = np.random.default_rng(0), np.random.default_rng([1, number])
    centres = tissue.random((_FACTORS, 2))
    loading = tissue.gamma(0.3, 1.0, (_FACTORS, args.genes)) * (tissue.random(args.genes) < 0.3)
    base = tissue.gamma(0.5, 1.0, args.genes)
    side = int(np.ceil(args.spots**0.5))
    grid = np.stack(np.divmod(np.arange(args.spots), side), axis=1) / side
    xy = grid + rng.uniform(-0.2, 0.2, grid.shape) / side
    parts = []
    for start in range(0, args.spots, _BLOCK):
        here = xy[start : start + _BLOCK]
        pattern = np.exp(-20 * np.square(here[:, None] - centres).sum(axis=2))
        rate = base + 3 * pattern @ loading
        rate *= args.density / rate.mean() * rng.lognormal(0, 0.3, (len(here), 1))
        parts.append(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    names = [f"spot{i}" for i in range(args.spots)]
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "X", sp.vstack(parts, format="csr"),
                   dataset_kwargs={"compression": args.compression})  # fmt: skip
        write_elem(file, "obs", DataFrame(index=names))
        write_elem(file, "var", DataFrame(index=[f"gene{g}" for g in range(args.genes)]))
        write_elem(file, "obsm", {"spatial": xy})


def files_of(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The slides' files; others of another kind may lie beside them."""
    kind = f"{args.spots}x{args.genes}_{args.density:g}_{args.compression or 'plain'}"
    return [folder / f"slide_{n}_{kind}.h5ad" for n in range(args.slides)]


def measure(files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """All stages in this process, one way."""
    stages: dict[str, dict[str, float]] = {}

    def done(stage: str, start: float, cells: int) -> float:
        seconds = time.perf_counter() - start
        stages[stage] = {
            "seconds": seconds,
            "cells_per_second": cells / seconds,
            "peak_gb": peak_memory_bytes() / 1e9,
        }
        return time.perf_counter()

    start, every = time.perf_counter(), len(files) * args.spots
    data = EncoderDataModule(
        [str(file) for file in files],
        genes=GeneSettings(num_genes=args.num_genes),
        draws=DrawSettings(spots=384),
        memory_mb=_WAYS[args.way],
    )
    data.setup("fit")
    start = done("read", start, every)
    coordinates = [s.xy for s in data.fit_slides if s.xy is not None]
    settings = replace(StartSettings(), max_landmarks=args.landmarks)
    trunk = fit_eigenmaps(data.expression(), coordinates, settings, args.d_out)
    start = done("fit", start, every)
    encoder = FrozenEncoder(trunk, None, data.panel, data.split, data.genes.normalisation)
    embedded = embed_training(encoder, data.fit_slides)
    start = done("embed", start, every)
    views = data.draws.views
    drawn = ViewDataset(data.fit_slides, data.panel, data.genes.normalisation, 384, views, 0)
    cells = sum(len(part.views[0]) for index in range(args.draws) for part in drawn[index])
    done("draws", start, cells)
    digest = hashlib.sha256(encoder.weights_hash.encode())
    for slide in embedded:
        digest.update(np.ascontiguousarray(slide.h).tobytes())
    return {"stages": stages, "panel": len(data.panel), "digest": digest.hexdigest()}


def compare(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Write the slides that are not there and run each way in a process of its own."""
    files = files_of(args, folder)
    for n, file in enumerate(files):
        if not file.exists():
            write_slide(file, args, n)
    rows = []
    for way in args.ways:
        command = [*(sys.executable, __file__, "--way", way), *("--out", str(folder))]
        for name in ("slides", "spots", "genes", "density", "num_genes", "landmarks", "d_out",
                     "draws", "compression"):  # fmt: skip
            if getattr(args, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"way": way, **json.loads(done.stdout.splitlines()[-1])})
        size = sum(file.stat().st_size for file in files) / 1e9
        rows[-1] |= {"files_gb": size, "machine": describe_machine(threads=1)}
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    stages = list(rows[0]["stages"])
    body = [
        [stage, row["way"], number(found["seconds"], 1), number(found["cells_per_second"], 0),
         number(found["peak_gb"], 2)]
        for stage in stages
        for row in rows
        for found in [row["stages"][stage]]
    ]  # fmt: skip
    lines = [
        f"{rows[0]['files_gb']:.2f} GB of files, {rows[0]['panel']} genes on the panel.",
        markdown_table(["stage", "way", "s", "cells/s", "peak GB so far"], body),
    ]
    if len(rows) > 1:
        same = len({row["digest"] for row in rows}) == 1
        lines.append(f"Encoder and H are {'the same' if same else 'NOT the same'}, bit by bit.")
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--spots", type=int, default=2000, help="of each slide")
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--density", type=float, default=0.2, help="mean count of an entry")
    parser.add_argument("--num-genes", type=int, help="most variable genes on the panel; all")
    parser.add_argument("--landmarks", type=int, default=1000)
    parser.add_argument("--d-out", type=int, default=64)
    parser.add_argument("--draws", type=int, default=20, help="training minibatches")
    parser.add_argument("--compression", choices=["gzip", "lzf"])
    parser.add_argument("--ways", nargs="+", choices=list(_WAYS), default=list(_WAYS))
    parser.add_argument("--out", type=Path, help="folder that keeps slides and result")
    parser.add_argument("--way", choices=list(_WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(files_of(args, args.out), args)))
        return
    with TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(describe_machine(threads=1), flush=True)
        rows = compare(args, folder)
        print(f"\n{report(rows)}")
        if args.out is not None:
            with atomic_path(folder / "streaming.json") as partial:
                partial.write_text(to_json(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
