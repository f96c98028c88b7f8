"""kNN graphs: time and recall of every engine beside torch-cluster, SciPy and scikit-learn.

    python benchmarks/knn.py --json runs/knn.json --figure runs/knn.png
    python benchmarks/knn.py --data DATA/st/slideseq_cerebellum/Puck_180819_11.h5ad
    python benchmarks/knn.py --quick                                          # seconds

"embedding": simulated encoder output, 128 numbers a cell.  Twelve cell types, each a smooth sheet
(sines of a linear map of two coordinates) about its own centre, with normal noise of standard
deviation 0.1 in every dimension.  "cells": the leading principal components of a real slide,
log-normalised, whose later components are mostly noise.  "plane": uniform points in 2-D.

Methods that would exceed ``--limit`` seconds search a random subset of the rows among all nodes,
and the time beyond that of 128 rows is scaled; the column "rows" says how many were searched.  The
engines "kdtree", "cluster" and "approximate" are always run whole.  Recall is the share of
neighbours no farther than the true k-th, on 200 rows.  All methods must first find the neighbours
of a brute-force search on a small set.  Times are the fastest and the slowest of ``--rounds``, or
of one round where it takes more than a third of the limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from common.files.atomic import atomic_path
from common.graph.knn import Engine, exact, knn_index
from common.graph.knn.approximate import squared_distances
from common.report.figures import save_figure
from common.report.machine import describe_machine
from common.report.tables import markdown_table, to_json
from common.rng import generator_for
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.read import read_slide

LIBRARIES = ("torch-cluster", "scipy", "scikit-learn", "faiss-cpu")
WIDTH = 128
FEW = 128  # rows of the first trial of a method
# (points, searched rows, k) -> (R, k) neighbours, the row itself excluded.
Rows = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Result:
    """One line of the table; seconds are scaled to all rows."""

    data: str
    method: str
    nodes: int
    width: int
    k: int
    rows: int  # searched
    seconds: float  # fastest
    slowest: float
    recall: float


# ---------------------------------------------------------------------------------------- the data


def embedding(nodes: int, seed: int) -> Tensor:
    generator = generator_for(seed)
    types = 12
    maps = 1.5 * torch.randn(types, 2, WIDTH, generator=generator)
    centres = torch.randn(types, WIDTH, generator=generator)
    kind = torch.randint(types, (nodes,), generator=generator)
    place = torch.rand(nodes, 2, generator=generator)
    x = 0.1 * torch.randn(nodes, WIDTH, generator=generator)
    for t in range(types):
        mine = kind == t
        x[mine] += centres[t] + torch.sin(place[mine] @ maps[t])
    return x


def components(path: str) -> Tensor:
    slide = read_slide(path, require_spatial=False)
    y = torch.from_numpy(normalise(slide.counts, logged=slide.is_logged))
    y = y[:, y.var(0).topk(min(2000, y.shape[1])).indices]
    pca = PCA(min(WIDTH, *y.shape), svd_solver="randomized", random_state=0)
    return torch.from_numpy(pca.fit_transform(y.numpy())).contiguous()


def plane(nodes: int, seed: int) -> Tensor:
    return torch.rand(nodes, 2, generator=generator_for(seed, 2))


# ------------------------------------------------------------------------------------- the methods


def without_self(found: Tensor, rows: Tensor, k: int) -> Tensor:
    """(R, k) of (R, k + 1) neighbours; the farthest goes where the row is not among them."""
    other = found != rows[:, None]
    other[other.all(1), -1] = False
    return found[other].view(-1, k)


def exact_rows(x: Tensor, rows: Tensor, k: int) -> Tensor:
    return exact.nearest_to_rows(x, k, rows, (0, len(x)))[0]


def torch_cluster_rows(x: Tensor, rows: Tensor, k: int) -> Tensor:
    """What ``torch_cluster.knn_graph`` calls."""
    from torch_cluster import knn

    found = knn(x, x[rows], k + 1, num_workers=torch.get_num_threads())[1]
    return without_self(found.view(-1, k + 1), rows, k)


def scipy_rows(x: Tensor, rows: Tensor, k: int) -> Tensor:
    _, found = cKDTree(x.numpy()).query(x[rows].numpy(), k + 1, workers=torch.get_num_threads())
    return without_self(torch.from_numpy(found), rows, k)


def sklearn_rows(x: Tensor, rows: Tensor, k: int) -> Tensor:
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x.numpy())
    found = search.kneighbors(x[rows].numpy(), return_distance=False)
    return without_self(torch.from_numpy(found), rows, k)


def engine_rows(engine: Engine, x: Tensor, rows: Tensor, k: int) -> Tensor:
    """All rows, whatever is asked: these engines build an index of the whole."""
    return knn_index(x, k, engine=engine)[0][rows]


WHOLE: dict[str, Rows] = {
    "edgewise approximate": partial(engine_rows, "approximate"),
    "edgewise kdtree": partial(engine_rows, "kdtree"),
    "edgewise cluster": partial(engine_rows, "cluster"),
}
BY_ROWS: dict[str, Rows] = {
    "edgewise exact": exact_rows,
    "torch-cluster knn": torch_cluster_rows,
    "SciPy cKDTree": scipy_rows,
    "scikit-learn brute": sklearn_rows,
}
METHODS = {**WHOLE, **BY_ROWS}
WIDE = (
    "edgewise exact",
    "edgewise approximate",
    "torch-cluster knn",
    "SciPy cKDTree",
    "scikit-learn brute",
)
FLAT = (
    "edgewise kdtree",
    "edgewise cluster",
    "edgewise exact",
    "torch-cluster knn",
    "SciPy cKDTree",
)


# ------------------------------------------------------------------------------------ the measuring


def check() -> None:
    """Every method against all float64 distances, on points without ties."""
    for x, names in ((embedding(500, 1), WIDE), (plane(500, 1), FLAT)):
        d2 = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
        wanted = d2.topk(12, largest=False).indices.sort(1).values
        for name in names:
            found = METHODS[name](x, torch.arange(500), 12)
            if not torch.equal(found.sort(1).values, wanted):
                raise AssertionError(f"{name} does not find the neighbours of a brute-force search")


def measure(
    data: str, x: Tensor, k: int, names: Sequence[str], limit: float, rounds: int
) -> Iterator[Result]:
    n = len(x)
    shuffled = torch.randperm(n, generator=generator_for(0, n))
    for name in names:
        method, rows, few, few_seconds = METHODS[name], torch.arange(n), 0, 0.0
        if name in BY_ROWS and n > 2 * FEW:
            rows, few, few_seconds = affordable_rows(method, x, shuffled, k, limit)
        times: list[float] = []
        found = torch.empty(0)
        while not times or (len(times) < rounds and times[0] < limit / 3):
            start = time.perf_counter()
            found = method(x, rows, k)
            seconds = time.perf_counter() - start
            if len(rows) < n:  # the few rows hold the time of the index, which does not grow
                seconds = few_seconds + (seconds - few_seconds) * (n - few) / (len(rows) - few)
            times.append(seconds)
        yield Result(
            *(data, name, n, x.shape[1], k, len(rows)),
            *(min(times), max(times), recall(x, rows, found)),
        )


def affordable_rows(
    method: Rows, x: Tensor, shuffled: Tensor, k: int, limit: float
) -> tuple[Tensor, int, float]:
    """All rows in order if they take less than the limit, else as many random ones as it allows.

    Also a smaller number of rows, and the seconds they take.
    """
    seconds = []
    for count in (FEW // 4, FEW):  # two numbers, to tell the index from the search
        start = time.perf_counter()
        method(x, shuffled[:count], k)
        seconds.append(time.perf_counter() - start)
    per_row = max((seconds[1] - seconds[0]) / (FEW - FEW // 4), 1e-9)
    count = max(2 * FEW, int((limit - seconds[1]) / per_row))
    if count >= len(x):
        return torch.arange(len(x)), FEW, seconds[1]
    return shuffled[:count].sort().values, FEW, seconds[1]


def recall(x: Tensor, rows: Tensor, found: Tensor) -> float:
    """On up to 200 of the searched rows."""
    some = torch.randperm(len(rows), generator=generator_for(1))[:200]
    truth = exact_rows(x, rows[some], found.shape[1])
    far = squared_distances(x, rows[some], truth).amax(1, keepdim=True) * (1 + 1e-6)
    return float((squared_distances(x, rows[some], found[some]) <= far).double().mean())


# ------------------------------------------------------------------------------------- the results


COLUMNS = ("data", "nodes", "d", "k", "method", "rows", "s", "slowest", "µs a node", "recall")


def cells(r: Result) -> list[str]:
    """One row of the table, a cell for each of ``COLUMNS``."""
    return [
        *(r.data, f"{r.nodes:,}", str(r.width), str(r.k), r.method),
        f"{r.rows:,}" if r.rows < r.nodes else "all",
        *(f"{r.seconds:.2f}", f"{r.slowest:.2f}"),
        *(f"{1e6 * r.seconds / r.nodes:.1f}", f"{r.recall:.4f}"),
    ]


def draw(results: Sequence[Result]) -> Figure:
    """One panel per data set: microseconds a node against nodes."""
    names = list(dict.fromkeys(r.data for r in results))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, method in enumerate(METHODS):
            mine = [r for r in results if r.data == name and r.method == method]
            if mine:
                axes.loglog(
                    [r.nodes for r in mine],
                    [1e6 * r.seconds / r.nodes for r in mine],
                    marker="o",
                    color=f"C{number}",
                    label=method,
                )
        axes.set_title(f"{name}, {next(r.width for r in results if r.data == name)} dimensions")
        axes.set_xlabel("nodes")
        axes.set_ylabel("µs a node")
        axes.legend(fontsize=7)
    return figure


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[5000, 50_000, 1_000_000])
    parser.add_argument("--plane-sizes", type=int, nargs="*", default=[5000, 100_000, 1_000_000])
    parser.add_argument("--data", help="a slide (.h5ad), searched in principal components")
    parser.add_argument("--k", type=int, default=100, help="neighbours in 128 dimensions")
    parser.add_argument("--plane-k", type=int, default=20, help="neighbours in the plane")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a peer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds in all")
    parser.add_argument("--json", type=Path, help="file of the results")
    parser.add_argument("--figure", type=Path, help="file of the figure, .png")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.plane_sizes, args.limit, args.rounds = [5000], [5000, 20_000], 1.0, 1
    torch.set_num_threads(args.threads)
    machine = describe_machine(*LIBRARIES)
    print(f"command: {' '.join(sys.argv)}\n{machine}\n")
    check()
    sets: list[tuple[str, Callable[[], Tensor], int, Sequence[str]]] = [
        ("embedding", partial(embedding, n, 0), args.k, WIDE) for n in args.sizes
    ]
    if args.data:
        sets.append(("cells", partial(components, args.data), args.k, WIDE))
    sets += [("plane", partial(plane, n, 0), args.plane_k, FLAT) for n in args.plane_sizes]
    print(markdown_table(COLUMNS, []))
    results = []
    for data, make, k, names in sets:
        chosen = [name for name in names if name in args.methods]
        for result in measure(data, make(), k, chosen, args.limit, args.rounds):
            results.append(result)
            print(markdown_table(COLUMNS, [cells(result)]).splitlines()[-1], flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "command": sys.argv,
            "machine": machine,
            "results": [asdict(r) for r in results],
        }
        with atomic_path(args.json) as partial_file:
            partial_file.write_text(to_json(content))
    if args.figure:
        save_figure(draw(results), args.figure)


if __name__ == "__main__":
    main()
