"""Neighbour attention and edge gate: time, extra memory and distance from the machine's limits.

    python benchmarks/kernels/cpu.py --out runs/kernels
    python benchmarks/kernels/cpu.py --sizes 10000 100000 1000000 --ours --out runs/growth
    python benchmarks/kernels/cpu.py --quick                        # seconds

Prints a table and writes ``cpu.json`` and ``.png`` to ``--out``.  Every node attends
to its k nearest neighbours among random points in three dimensions.  "nodes in order" is the same
graph with its nodes sorted by :func:`common.graph.order.locality_order`.  "for_many_calls" is the
random graph as :func:`common.graph.places.for_many_calls` returns it, which is timed, too.

Each method runs in float32 on the same inputs and must first agree with the float64 plain form on a
small graph, and with the first method at the size that is timed.  Methods take turns, so that other
load on the machine meets all of them; the table gives the fastest and the median round.  Extra
memory is the peak resident size above that before the call (Linux).

Two limits are measured in the same run.  "copy": the bandwidth of copying 256 MB; a method's
fraction is the time to move, once, every array it must read and write.  "gather": the time of one
``embedding_bag`` sum over the same edges and rows of H x D values, which is what attention does
twice forward (k, v) and six times with backward (k, v again, then q and the output's gradient).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from inputs import (
    BETA,
    COORDS,
    FEATURES,
    HEADS,
    MODES,
    OPS,
    WIDTH,
    Inputs,
    Method,
    Row,
    edge_list_rivals,
    exact,
    forward_backward,
    make_inputs,
    ours,
    rivals_gb,
    save,
)
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.graph.order import locality_order, permute_edges
from common.graph.places import for_many_calls, places_of
from common.report.machine import processor
from common.sparse.extension import extension_loaded

WEIGHTS = ("w_x", "w1", "b1", "w2", "b2", "w3", "b3")
DENSE_LIMIT = 6000  # nodes; the dense form holds several n x n x H arrays
COMPILE_LIMIT = 6000  # nodes; above, the compiled padded form only repeats the eager one's story


@dataclass(frozen=True, kw_only=True)
class CpuRow(Row):
    fastest_ms: float
    rounds: int
    gather_fraction: float

    @property
    def ns_per_edge(self) -> float:
        return 1e6 * self.fastest_ms / self.edges


# ------------------------------------------------------------------------------------- the inputs


def graph(nodes: int, k: int, rng: torch.Generator, *, ordered: bool) -> EdgeList:
    points = torch.randn(nodes, 3, generator=rng)
    edges = knn_edges(points, k)
    return permute_edges(edges, locality_order(points)) if ordered else edges


# ------------------------------------------------------------------------------------- the methods


def dense_attention(t: Inputs, edges: EdgeList) -> list[Tensor]:
    nodes = edges.num_nodes
    # -inf where there is no edge, so that the softmax masks without a second array.
    gate = t["gate"].new_full((nodes, nodes), -torch.inf)
    gate = gate.index_put((edges.dst, edges.src), BETA * t["gate"])
    logits = torch.einsum("ihd,jhd->hij", t["q"], t["k"]) / WIDTH**0.5 + gate
    a = logits.softmax(-1)
    # sum_j a (x_j - x_i) = (a x)_i - x_i, as the weights of a row sum to one
    moment = torch.einsum("hij,jc->ihc", a, t["x"]) - t["x"][:, None]
    out = torch.einsum("hij,jhd->ihd", a, t["v"])
    return [out, torch.einsum("hcd,ihd->ic", t["w_x"], moment)]


def padded_attention(t: Inputs, edges: EdgeList) -> list[Tensor]:
    """Rows padded to the in-degree k, which all nodes of a kNN graph share: (n, k, ...) arrays."""
    nodes, k = edges.num_nodes, edges.num_edges // edges.num_nodes
    table = edges.src.view(nodes, k)
    node = (t["q"], t["k"], t["v"], t["x"], t["w_x"])
    return list(_padded(*node, t["gate"].view(nodes, k), table))


def compiled_padded_attention(t: Inputs, edges: EdgeList) -> list[Tensor]:
    nodes, k = edges.num_nodes, edges.num_edges // edges.num_nodes
    table = edges.src.view(nodes, k)
    node = (t["q"], t["k"], t["v"], t["x"], t["w_x"])
    return list(_compiled()(*node, t["gate"].view(nodes, k), table))


def _padded(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, w_x: Tensor, gate: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    # Products and sums, not einsum: torch.compile fuses them with the gathers.
    logits = (q[:, None] * k[table]).sum(-1) / WIDTH**0.5 + BETA * gate[..., None]  # (n, k, H)
    a = logits.softmax(1)
    out = (a[..., None] * v[table]).sum(1)
    moment = (a[..., None] * (x[table] - x[:, None])[:, :, None]).sum(1)  # (n, H, C)
    return out, (w_x * moment[:, :, None]).sum((1, 3))


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    """Here, because it imports the compiler."""
    return torch.compile(_padded, dynamic=False)


def methods_for(
    op: str, edges: EdgeList, inputs: Inputs, args: argparse.Namespace
) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    if extension_loaded():
        methods["edgewise, compiled"] = ours("cpp")
        if op == "attention":
            methods |= with_places(edges)
    if args.ours and methods:
        return methods
    methods["edgewise, PyTorch only"] = ours("torch")
    if args.ours:
        return methods
    nodes, needed = edges.num_nodes, rivals_gb(op, edges)
    if needed > args.peer_memory_gb:
        tqdm.write(f"n = {nodes}: the peers need about {needed:.0f} GB and are left out")
        return methods
    if op == "attention" and nodes <= DENSE_LIMIT:
        methods["dense masked"] = dense_attention
    methods |= edge_list_rivals(op, inputs)
    if op == "attention":
        methods["padded gather"] = padded_attention
        if nodes <= COMPILE_LIMIT and not args.no_compile:
            methods["padded gather, torch.compile"] = compiled_padded_attention
    return methods


def with_places(edges: EdgeList) -> dict[str, Method]:
    """Compiled attention over the same edges as :func:`for_many_calls` returns them, if it finds
    an order."""
    start = time.perf_counter()
    near = for_many_calls(EdgeList(edges.src, edges.dst, edges.ptr))
    seconds = time.perf_counter() - start
    if places_of(near) is None:
        return {}
    tqdm.write(f"n = {edges.num_nodes}: for_many_calls took {1e3 * seconds:.0f} ms, once")
    compiled = ours("cpp")
    return {"edgewise, for_many_calls": lambda t, e: compiled(t, near if e is edges else e)}


# -------------------------------------------------------------------------------- the measurements


def agree(got: list[Tensor], want: list[Tensor], tolerance: float, label: str) -> None:
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        error = float((g - w).detach().abs().max() / w.detach().abs().max())
        if not error < tolerance:
            raise AssertionError(f"{label}: result {n} is off by {error:.1e} of its largest entry")


def extra_memory_mb(call: Callable[[], object]) -> float:
    """Peak resident size during ``call`` above that before it; NaN where the system hides it."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
        before = _status_bytes("VmRSS")
        call()
        return (_status_bytes("VmHWM") - before) / 1e6
    except OSError:
        return float("nan")


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def fastest_ms(call: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:])


def copy_gb_per_s() -> float:
    """Bytes read and written per second by copying an array that no cache holds."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest_ms(lambda: target.copy_(source)) / 1e6


def gather_ms(edges: EdgeList, rows: Tensor) -> float:
    """One pass that reads a row of H x D values for every edge and sums it at the destination."""
    table = rows.flatten(1)
    return fastest_ms(
        lambda: F.embedding_bag(edges.src, table, edges.ptr, mode="sum", include_last_offset=True)
    )


def moved_bytes(op: str, mode: str, edges: EdgeList) -> int:
    """Bytes of every array that must be read or written at least once (float32, int64)."""
    nodes, count = edges.num_nodes, edges.num_edges
    if op == "edge_gate":
        once = 4 * nodes * FEATURES + 4 * count + 8 * 2 * count
        return once if mode == "forward" else 2 * once + 4 * count
    rows, state = 4 * nodes * HEADS * WIDTH, 4 * nodes * (2 * COORDS + HEADS * (1 + COORDS))
    ahead = 4 * rows + state + 4 * count + 8 * count  # q, k, v, out; x, dx, lse; gate; sources
    if mode == "forward":
        return ahead
    # Again q, k, v, out, and the gradients of all of them; the gate and its gradient; the source
    # pass reads the reverse list and the destinations.
    return ahead + 8 * rows + 2 * state + 8 * count + 8 * 3 * count


def measure(
    op: str, nodes: int, k: int, ordered: bool, copy_rate: float, args: argparse.Namespace
) -> Iterator[CpuRow]:
    rng = torch.Generator().manual_seed(nodes)
    small = graph(97, 20, rng, ordered=False)
    small_inputs = make_inputs(op, small, rng)
    truth = exact(small_inputs, small)
    edges = graph(nodes, min(k, nodes - 1), rng, ordered=ordered)
    inputs = make_inputs(op, edges, rng)
    methods = methods_for(op, edges, inputs, args)
    first: list[Tensor] | None = None
    for name, method in methods.items():
        agree(forward_backward(method, small_inputs, small), truth, 1e-4, name)
        result = [t.detach() for t in forward_backward(method, inputs, edges)]
        # Gradients of weights are sums over all edges that nearly cancel, so their rounding grows
        # with the size and differs between methods; the small graph has compared them.
        names = [*["output"] * (len(result) - len(inputs)), *inputs]
        result = [t for n, t in zip(names, result, strict=True) if n not in WEIGHTS]
        first = result if first is None else first
        agree(result, first, 1e-3, f"{name}, n = {nodes}")
    del result, first
    gather = gather_ms(edges, inputs["q"]) if op == "attention" else float("nan")
    for mode, run in MODES.items():
        times: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(args.rounds):
            for name, method in methods.items():
                start = time.perf_counter()
                run(method, inputs, edges)
                times[name].append(1e3 * (time.perf_counter() - start))
        passes = 2 if mode == "forward" else 6
        for name, method in methods.items():
            fastest = min(times[name])
            yield CpuRow(
                op=op,
                method=name + (", nodes in order" if ordered else ""),
                mode=mode,
                dtype="float32",
                order="in order" if ordered else "random",
                nodes=nodes,
                edges=edges.num_edges,
                fastest_ms=fastest,
                median_ms=statistics.median(times[name]),
                rounds=args.rounds,
                extra_mb=extra_memory_mb(partial(run, method, inputs, edges)),
                copy_fraction=moved_bytes(op, mode, edges) / 1e6 / copy_rate / fastest,
                gather_fraction=passes * gather / fastest,
            )


# ------------------------------------------------------------------------------------- the reports


def print_table(rows: list[CpuRow]) -> None:
    """One block per operation, size and direction; ratios are to its first line."""
    for key in dict.fromkeys((r.op, r.nodes, r.edges, r.mode) for r in rows):
        block = [r for r in rows if (r.op, r.nodes, r.edges, r.mode) == key]
        op, nodes, edges, mode = key
        print(f"\n{op}, n = {nodes}, k = {edges // nodes}, {mode}")
        print(
            f"  {'method':38} {'fastest ms':>10} {'median ms':>10} {'ratio':>6} {'extra MB':>9} "
            f"{'ratio':>6} {'ns/edge':>8} {'B/edge':>8} {'copy':>5} {'gather':>6}"
        )
        for r in block:
            print(
                f"  {r.method:38} {r.fastest_ms:10.2f} {r.median_ms:10.2f} "
                f"{r.fastest_ms / block[0].fastest_ms:6.1f} {r.extra_mb:9.1f} "
                f"{r.extra_mb / max(block[0].extra_mb, 0.1):6.1f} {r.ns_per_edge:8.1f} "
                f"{r.bytes_per_edge:8.0f} {r.copy_fraction:5.2f} {r.gather_fraction:6.2f}"
            )


def draw(rows: list[CpuRow]) -> Figure:
    """Time and extra memory per edge against the number of nodes, forward + backward."""
    ops = list(dict.fromkeys(r.op for r in rows))
    figure = Figure(figsize=(5.5 * len(ops), 7), layout="constrained")
    axes = figure.subplots(2, len(ops), squeeze=False)
    for column, op in enumerate(ops):
        chosen = [r for r in rows if r.op == op and r.mode == "forward + backward"]
        for method in dict.fromkeys(r.method for r in chosen):
            mine = sorted((r for r in chosen if r.method == method), key=lambda r: r.nodes)
            style = "o-" if method.startswith("edgewise") else "s--"
            sizes = [r.nodes for r in mine]
            axes[0][column].plot(sizes, [r.ns_per_edge for r in mine], style, label=method)
            axes[1][column].plot(sizes, [r.bytes_per_edge for r in mine], style)
        for axis, label in zip(axes[:, column], ("ns per edge", "bytes per edge"), strict=True):
            axis.set(xscale="log", yscale="log", xlabel="nodes", ylabel=label, title=op)
        handles, labels = axes[0][column].get_legend_handles_labels()
        axes[1][column].legend(  # below, off the curves
            handles, labels, fontsize="x-small", ncols=2, loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
        )  # fmt: skip
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the sparse kernels against their rivals.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 1300, 5000, 20000])
    parser.add_argument("--degrees", type=int, nargs="+", default=[100], help="in-edges of a node")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-order", action="store_true", help="leave the ordered graph out")
    parser.add_argument("--peer-memory-gb", type=float, default=12.0, help="most a peer may need")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for the JSON file and the figure")
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.degrees, args.rounds, args.no_compile = [200], [40], 2, True
    torch.set_num_threads(args.threads)
    copy_rate = copy_gb_per_s()
    machine: dict[str, Any] = {
        "processor": processor(),
        "threads": args.threads,
        "threads of the extension": (
            torch.ops.edgewise.threads_used() if extension_loaded() else "not built"
        ),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "vectors": torch.ops.edgewise.cpu_capability() if extension_loaded() else "not built",
        "copy_gb_per_s": round(copy_rate, 1),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows: list[CpuRow] = []
    work = [(op, n, k) for op in args.ops for n in args.sizes for k in args.degrees]
    for op, nodes, k in tqdm(work, disable=args.quick):
        for ordered in (False,) if args.no_order or op == "edge_gate" else (False, True):
            options = argparse.Namespace(**{**vars(args), "ours": args.ours or ordered})
            rows += measure(op, nodes, k, ordered, copy_rate, options)
        print_table([r for r in rows if r.op == op and r.edges == rows[-1].edges])
        if args.out:
            save(args.out, "cpu", machine, rows, draw(rows))


if __name__ == "__main__":
    main()
