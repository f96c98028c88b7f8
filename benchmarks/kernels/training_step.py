"""One training step of spatial_ipa on real minisets: fast kernels against the reference path.

    python benchmarks/kernels/training_step.py --slides 'DATA/her2st/A[1-3].h5ad' --out runs/step

Embeds the slides by the principal components of their expression (width 128, as the encoder's),
regresses positions on them, where the network starts (``form: points``), draws minisets as
``configs/spatial_ipa/laptop.yaml`` does, and times whole steps (miniset, forward, losses, backward,
AdamW) on every backend of :mod:`common.sparse`, in turns and on the same batches.
Losses and gradients of the backends must agree first.  Then one profiled step of the default
backend says where its time goes: wall time by part, and processor time by operation.
"""

from __future__ import annotations

import argparse
import glob
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import to_json
from common.sparse import Backend, use_backend
from common.sparse.extension import extension_loaded
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.evaluation.baselines.regression import pca_features
from spatial_ipa.model.losses import geometry_terms, loss_gate
from spatial_ipa.model.minisets import Miniset, collate
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings

# Operations of the profile, by kind of work.  The forward of a custom operator is timed
# under the name of the autograd node that calls it.
_NODE = "GeneratedBackwardFor_edgewise_"
_KINDS = {
    "attention": (
        *("edgewise::attention", _NODE + "attention"),
        *("edgewise::points", _NODE + "points"),
    ),
    "edge perceptron": ("edgewise::perceptron", _NODE + "perceptron"),
    "edge gate": ("edgewise::edge_gate", _NODE + "edge_gate"),
    "walks (spmm)": ("edgewise::spmm", "edgewise::gather", _NODE + "spmm"),
    "edge softmax": ("edgewise::log_softmax", _NODE + "log_softmax"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "sorting": ("aten::sort", "aten::argsort", "aten::topk"),
}


def embedded(paths: list[str]) -> list[EmbeddedSlide]:
    """Slides by the principal components of their expression, started at a linear regression."""
    slides = read_slides(paths)
    panel = gene_panel(slides)
    matrices = [normalise(reindex(s, panel)[0], logged=s.is_logged) for s in slides]
    h, _ = pca_features(matrices, matrices[0], 128, 0)
    scale = np.sqrt(np.concatenate(h).var(axis=0).mean())
    found = []
    for slide, x in zip(slides, h, strict=True):
        if slide.xy is not None:
            x, xy = (x / scale).astype(np.float32), slide.xy - slide.xy.mean(0)
            xy = xy / np.sqrt((xy**2).sum(1).mean())
            start = x @ np.linalg.lstsq(x, xy, rcond=None)[0]
            found.append(EmbeddedSlide(slide.name, x, slide.xy, start=start.astype(np.float32)))
    return found


def loss_of(module: SpatialIPAModule, batch: Miniset) -> tuple[Tensor, dict[str, float]]:
    """The full energy at its final weights, and the seconds of its parts."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    edges = batch.candidates
    assert module.gate is not None
    gate = module.gate(batch.h, edges)
    mark()
    graphs = batch.target.graph, batch.num_graphs
    layout = module.model(batch.h, edges, gate, *graphs, batch.start_noise, batch.start)
    mark()
    terms = geometry_terms(layout.x, batch.target)
    kl = loss_gate(gate, edges, batch.wanted, batch.target).mean()
    loss = terms.energy(module.weights).mean() + module.weights.gate * kl
    mark()
    names = ("gate forward", "model forward", "losses forward")
    return loss, dict(zip(names, np.diff(marks), strict=True))


def step(
    module: SpatialIPAModule, batch: Miniset, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Train on one batch; seconds by part."""
    loss, parts = loss_of(module, batch)
    start = time.perf_counter()
    optimizer.zero_grad()
    loss.backward()
    middle = time.perf_counter()
    optimizer.step()
    return parts | {"backward": middle - start, "optimiser": time.perf_counter() - middle}


def agree(module: SpatialIPAModule, batch: Miniset, backends: list[Backend]) -> None:
    """Raise unless all backends give the loss and the gradients of the first, to rounding."""
    results = []
    for backend in backends:
        with use_backend(backend):
            module.zero_grad()
            loss, _ = loss_of(module, batch)
            loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        results.append(torch.cat([loss.detach().view(1), *(g.flatten() for g in gradients)]))
    for backend, result in zip(backends, results, strict=True):
        error = float((result - results[0]).norm() / results[0].norm())
        if not error < 1e-4:
            raise AssertionError(f"{backend}: loss and gradients are off by {error:.1e}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time one training step of spatial_ipa.")
    parser.add_argument("--slides", nargs="+", required=True, help="h5ad files, or glob patterns")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size-max", type=int, default=384)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--rows", type=int, default=64, help="rows of the walk loss a miniset")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a backend")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="lightning")
    paths = sorted(path for pattern in args.slides for path in glob.glob(pattern))
    settings = MinisetSettings(
        per_epoch=args.batch_size * (args.steps + 1),
        batch_size=args.batch_size,
        size_max=args.size_max,
        num_candidates=args.candidates,
        num_rows=args.rows,
    )
    data = MinisetDataModule(embedded(paths), [], settings)
    dataset = data.train_dataset()
    start = time.perf_counter()
    batches = [
        collate([dataset[n * args.batch_size + m] for m in range(args.batch_size)])
        for n in range(args.steps + 1)
    ]
    building = (time.perf_counter() - start) / len(batches)

    torch.manual_seed(0)
    module = SpatialIPAModule()
    # At its start the last layer is zero, so most gradients are: take it where training is.
    with torch.no_grad():
        for parameter in module.model.block.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
    backends: list[Backend] = ["reference", "torch"]
    if extension_loaded():
        backends.append("cpp")
    agree(module, batches[0], backends)

    times: dict[Backend, list[float]] = {backend: [] for backend in backends}
    parts: dict[Backend, list[dict[str, float]]] = {backend: [] for backend in backends}
    for batch in tqdm(batches[1:], desc="steps"):
        for backend in backends:
            with use_backend(backend):
                seconds = step(module, batch, optimizer)
            times[backend].append(sum(seconds.values()))
            parts[backend].append(seconds)

    fast = backends[-1]
    edges = [b.candidates.num_edges for b in batches]
    nodes = [b.h.shape[0] for b in batches]
    print(
        f"{describe_machine()}; {args.batch_size} minisets a step, "
        f"mean {np.mean(nodes):.0f} nodes and {np.mean(edges):.0f} candidate edges"
    )
    print(f"building the minisets: {1e3 * building:.0f} ms a step (in the loader)")
    rows = {}
    for backend in backends:
        typical = statistics.median(times[backend])
        rows[backend] = {
            "step_ms": 1e3 * typical,
            **{
                name: 1e3 * statistics.median(p[name] for p in parts[backend])
                for name in parts[backend][0]
            },
        }
        ratio = typical / statistics.median(times[fast])
        listed = ", ".join(f"{k} {v:.0f}" for k, v in rows[backend].items() if k != "step_ms")
        print(f"{backend:10} {1e3 * typical:7.0f} ms a step, x{ratio:.1f}   ({listed})")

    with use_backend(fast), profile(activities=[ProfilerActivity.CPU]) as record:
        step(module, batches[0], optimizer)
    events = {e.key: e.self_cpu_time_total for e in record.key_averages()}
    total = sum(events.values())
    shares = {
        kind: sum(t for name, t in events.items() if name.startswith(starts)) / total
        for kind, starts in _KINDS.items()
    }
    shares["all other operations"] = 1 - sum(shares.values())
    print(f"processor time of a step on {fast!r}, one thread's view:")
    for kind, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {kind:22} {100 * share:5.1f} %")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        result = {
            "machine": describe_machine(),
            "nodes": float(np.mean(nodes)),
            "edges": float(np.mean(edges)),
            "building_ms": 1e3 * building,
            "backends": rows,
            "shares": shares,
        }
        with atomic_path(args.out / "training_step.json") as partial:
            partial.write_text(to_json(result))


if __name__ == "__main__":
    main()
