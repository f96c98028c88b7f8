"""The Triton kernels on a CUDA device: agreement, time, bandwidth, memory, beside their rivals.

    python benchmarks/kernels/gpu.py --out runs/gpu
    python benchmarks/kernels/gpu.py --sizes 100000 --tiles        # other block sizes, too
    python benchmarks/kernels/gpu.py --quick                       # about a minute

Needs torch with CUDA and Triton; PyG and torch_scatter take part where they can be imported, and
FlexAttention (block mask, gate through its score function, no coordinates: less work than the
others do) up to 20,000 nodes.  First every result and gradient is compared with the float64 plain
form on a small multigraph, and two runs bit by bit; nothing is timed if that fails.  Then the
graph: a square lattice on a torus, every node with its 100 nearest lattice points as in-edges,
int32 indices; "in order" means nodes in :func:`common.graph.order.locality_order`, "shuffled" a
random order.  Times are medians of CUDA events after a warm-up.  "moved" counts every array that
must be read or written once; its rate is given as a fraction of the copy bandwidth measured in the
same run.  "gathered" counts the node rows read once per edge, wherever they come from (caches).
Prints a table, and writes ``gpu.json`` and ``.png`` after every size.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inputs import (
    BETA,
    COORDS,
    FEATURES,
    HEADS,
    HIDDEN,
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

from common.graph.edges import EdgeList
from common.graph.order import locality_order, permute_edges
from common.sparse.attention import triton_launch
from common.sparse.attention.inputs import Operands
from common.sparse.attention.triton_launch import Tile

FLEX_LIMIT, BLOCKWISE_LIMIT = 20_000, 100_000  # nodes


@dataclass(frozen=True, kw_only=True)
class GpuRow(Row):
    """Rates in TB/s (1e12)."""

    spread_ms: float
    moved_tb_per_s: float
    gathered_tb_per_s: float


# ------------------------------------------------------------------------------------- the inputs


def lattice(nodes: int, k: int) -> tuple[EdgeList, Tensor]:
    """Every point of a torus of side about sqrt(nodes) with its k nearest; points (N, 2)."""
    side = max(round(nodes**0.5), 2 * int(k**0.5) + 3)
    reach = int(k**0.5)
    steps = torch.arange(-reach, reach + 1, device="cuda")
    offset = torch.cartesian_prod(steps, steps)
    nearest = torch.argsort(offset.square().sum(1), stable=True)[1 : k + 1]
    place = torch.arange(side, device="cuda")
    points = torch.cartesian_prod(place, place)
    around = (points[:, None] + offset[nearest]) % side  # (N, k, 2)
    src = (around[..., 0] * side + around[..., 1]).int()
    dst = torch.arange(side**2, device="cuda", dtype=torch.int32)[:, None].expand_as(src)
    edges = EdgeList.from_edge_index(torch.stack([src.flatten(), dst.flatten()]), side**2)
    return edges, points.float()


def small_graph() -> EdgeList:
    """Random multigraph with rows of all lengths and empty ones."""
    rng = torch.Generator().manual_seed(0)
    index = (torch.rand(2, 4000, generator=rng).square() * 150).int()
    return EdgeList.from_edge_index(index, 157).to("cuda")


def inputs_for(op: str, edges: EdgeList, dtype: torch.dtype, wide: torch.dtype) -> Inputs:
    return make_inputs(op, edges, torch.Generator("cuda").manual_seed(1), dtype, wide)


# ------------------------------------------------------------------------------------- the methods


def flex_attention_method(edges: EdgeList, gate: Tensor) -> Method:
    """Mask and gate as (n, n) arrays that FlexAttention reads; the gate takes no gradient."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = edges.num_nodes
    adjacent = torch.zeros(n, n, dtype=torch.bool, device="cuda")
    score = torch.zeros(n, n, device="cuda")
    adjacent[edges.dst, edges.src] = True
    score[edges.dst, edges.src] = BETA * gate
    mask = create_block_mask(lambda _b, _h, i, j: adjacent[i, j], None, None, n, n, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)

    def add_gate(logit: Tensor, _b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return logit + score[i, j]

    def run(t: Inputs, _edges: EdgeList) -> list[Tensor]:
        q, k, v = (t[name].transpose(0, 1)[None] for name in "qkv")
        out = compiled(q, k, v, score_mod=add_gate, block_mask=mask)
        return [out[0].transpose(0, 1)]

    return run


def methods_for(op: str, edges: EdgeList, inputs: Inputs, peer_gb: float) -> dict[str, Method]:
    """Ours first."""
    methods = {"edgewise, Triton": ours("triton")}
    nodes = edges.num_nodes
    if nodes <= BLOCKWISE_LIMIT:
        methods["edgewise, PyTorch only"] = ours("torch")
    itemsize = inputs["q"].itemsize if op == "attention" else 4
    if rivals_gb(op, edges, itemsize) <= peer_gb:
        methods |= edge_list_rivals(op, inputs)
    if op == "attention" and nodes <= FLEX_LIMIT:
        methods["FlexAttention (no dx, no dgate)"] = flex_attention_method(edges, inputs["gate"])
    return methods


# ------------------------------------------------------------------------------- agreement and time


def check() -> None:
    """Values and every gradient against float64, and the same bits twice."""
    edges = small_graph()
    cases = [
        ("attention", torch.float64, torch.float64, 1e-10),
        ("attention", torch.float32, torch.float32, 1e-5),
        ("attention", torch.float16, torch.float32, 1e-2),
        ("attention", torch.bfloat16, torch.float32, 4e-2),
        ("edge_gate", torch.float32, torch.float32, 1e-5),
    ]
    for op, dtype, wide, tolerance in cases:
        inputs = inputs_for(op, edges, dtype, wide)
        truth = exact(inputs, edges)
        got = forward_backward(ours("triton"), inputs, edges)
        again = forward_backward(ours("triton"), inputs, edges)
        worst = 0.0
        for n, (g, w, a) in enumerate(zip(got, truth, again, strict=True)):
            error = float((g.double() - w).norm() / w.norm())
            worst = max(worst, error)
            if not error < tolerance:
                raise AssertionError(f"{op} {dtype}: result {n} is off by {error:.1e}")
            if not torch.equal(g, a):
                raise AssertionError(f"{op} {dtype}: result {n} differs between two runs")
        print(f"check: {op} {dtype}: relative error at most {worst:.1e}, same bits twice")


def times_ms(call: Callable[[], object], budget_ms: float) -> list[float]:
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < budget_ms and len(times) < 50):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def copy_tb_per_s() -> float:
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(times_ms(lambda: target.copy_(source), 300)) / 1e9


def traffic(op: str, mode: str, edges: EdgeList, itemsize: int) -> tuple[int, int]:
    """Bytes that must move at least once, and bytes of node rows read once per edge."""
    nodes, count, index = edges.num_nodes, edges.num_edges, edges.src.itemsize
    if op == "edge_gate":
        once = 4 * nodes * (FEATURES + 2 * HIDDEN) + (4 + 2 * index) * count
        gathered = 4 * (FEATURES + HIDDEN) * count
        # backward: by destination, by source (with its order) and for the weights
        return (once, gathered) if mode == "forward" else (5 * once + 8 * count, 4 * gathered)
    row, state = itemsize * nodes * HEADS * WIDTH, 4 * nodes * (2 * COORDS + HEADS * (1 + COORDS))
    ahead = 4 * row + state + (4 + index) * count  # q, k, v, out; x, dx, lse, moment; gate; src
    gathered = 2 * itemsize * HEADS * WIDTH * count
    if mode == "forward":
        return ahead, gathered
    # Again q, k, v, out, and their gradients; gate twice and its gradient; src, order and dst.
    back = 8 * row + 3 * state + (3 * 4 + 2 * index + 8) * count
    return ahead + back, 3 * gathered


def measure(
    op: str, method: Method, inputs: Inputs, edges: EdgeList, mode: str, copy_rate: float
) -> dict[str, float]:
    call = functools.partial(MODES[mode], method, inputs, edges)
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    extra = torch.cuda.max_memory_allocated() - before
    times = times_ms(call, 1000)
    ms = statistics.median(times)
    itemsize = inputs["q"].itemsize if op == "attention" else 4
    moved, gathered = traffic(op, mode, edges, itemsize)
    rate = moved / ms / 1e9
    return {
        "median_ms": ms,
        "spread_ms": statistics.quantiles(times, n=4)[2] - statistics.quantiles(times, n=4)[0],
        "moved_tb_per_s": rate,
        "copy_fraction": rate / copy_rate,
        "gathered_tb_per_s": gathered / ms / 1e9,
        "extra_mb": extra / 1e6,
    }


def compare_tiles(edges: EdgeList, dtype: torch.dtype, order: str) -> None:
    """Time of forward and of backward for rows x slots x warps of a program."""
    t = inputs_for("attention", edges, dtype, torch.float32)
    q, k, v, x, w_x, gate = (t[name] for name in ("q", "k", "v", "x", "w_x", "gate"))
    graph = (edges.src, edges.dst, edges.ptr, *edges.by_source)
    for rows, slots, warps in (
        *((1, 2, 1), (1, 4, 1), (1, 8, 1), (2, 1, 1), (2, 2, 1), (4, 1, 1)),
        *((1, 8, 2), (1, 16, 4), (8, 1, 2), (16, 1, 4), (4, 4, 4)),
    ):
        tile = Tile(rows, slots, HEADS, WIDTH, COORDS, warps)
        operands = Operands(q, k, v, x, *graph, w_x, gate, BETA, None)
        ahead = functools.partial(triton_launch.attention_forward, operands, tile)
        out, dx, lse, moment = ahead()
        back = functools.partial(
            triton_launch.attention_backward,
            *(out, dx, operands, out, lse, moment),
            tiles=(tile, tile),
        )
        found = [statistics.median(times_ms(call, 200)) for call in (ahead, back)]
        print(
            f"tile {rows:2} x {slots:2}, {warps} warps, {dtype}, {order}: "
            f"forward {found[0]:8.3f} ms, backward {found[1]:8.3f} ms",
            flush=True,
        )


# --------------------------------------------------------------------------------------- the report


def line(r: GpuRow) -> str:
    return (
        f"{r.op:9} {r.nodes:>8} {r.order:9} {r.dtype:8} {r.mode:18} {r.method:32} "
        f"{r.median_ms:10.3f} ms ±{r.spread_ms:7.3f} "
        f"moved {r.moved_tb_per_s:6.3f} TB/s ({r.copy_fraction:5.1%} of copy) "
        f"gathered {r.gathered_tb_per_s:6.2f} TB/s extra {r.extra_mb / 1e3:7.3f} GB"
    )


def draw(rows: list[GpuRow]) -> Figure:
    """Nanoseconds per edge against nodes: operations across, directions down."""
    ops = list(dict.fromkeys(r.op for r in rows))
    figure = Figure(figsize=(6 * len(ops), 8), layout="constrained")
    axes = figure.subplots(len(MODES), len(ops), squeeze=False)
    for i, mode in enumerate(MODES):
        for j, op in enumerate(ops):
            chosen = [r for r in rows if r.op == op and r.mode == mode]
            for key in dict.fromkeys((r.method, r.dtype, r.order) for r in chosen):
                mine = [r for r in chosen if (r.method, r.dtype, r.order) == key]
                style = "o-" if key[0].startswith("edgewise, Triton") else "s--"
                per_edge = [1e6 * r.median_ms / r.edges for r in mine]
                axes[i][j].plot([r.nodes for r in mine], per_edge, style, label=", ".join(key))
            axes[i][j].set(xscale="log", yscale="log", title=f"{op}, {mode}")
            axes[i][j].set(xlabel="nodes", ylabel="ns per edge")
            axes[i][j].legend(fontsize="xx-small")
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time the Triton kernels on CUDA.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20_000, 100_000, 1_000_000])
    parser.add_argument("--degree", type=int, default=100, help="in-edges of a node")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--peer-memory-gb", type=float, default=60.0, help="most a rival may need")
    parser.add_argument("--tiles", action="store_true", help="compare block sizes of attention")
    parser.add_argument("--out", type=Path, help="folder for the JSON file and the figure")
    parser.add_argument("--quick", action="store_true", help="5,000 nodes, no FlexAttention")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 2
    check()
    copy_rate = copy_tb_per_s()
    machine: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "copy_tb_per_s": round(copy_rate, 3),
        "command": " ".join(sys.argv),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows: list[GpuRow] = []
    for nodes in [5000] if args.quick else args.sizes:
        regular, points = lattice(nodes, args.degree)
        rng = torch.Generator("cuda").manual_seed(0)
        orders = {
            "in order": locality_order(points),
            "shuffled": torch.randperm(len(points), generator=rng, device="cuda"),
        }
        for order, permutation in orders.items():
            edges = permute_edges(regular, permutation)
            for op in args.ops:
                for dtype in (torch.float32, torch.bfloat16):
                    if op == "edge_gate" and dtype == torch.bfloat16:
                        continue  # computed in float32
                    inputs = inputs_for(op, edges, dtype, torch.float32)
                    methods = methods_for(op, edges, inputs, args.peer_memory_gb)
                    if args.quick:
                        methods = {m: f for m, f in methods.items() if "Flex" not in m}
                    kind = str(dtype).removeprefix("torch.")
                    for mode in MODES:
                        for name, method in methods.items():
                            try:
                                found: Any = measure(op, method, inputs, edges, mode, copy_rate)
                            except Exception as error:  # a rival's limit is a result
                                if name.startswith("edgewise, Triton"):
                                    raise
                                print(f"{name}, {mode}, n = {nodes}, {kind}: {error!r:.300}")
                                continue
                            row = GpuRow(
                                op=op,
                                method=name,
                                mode=mode,
                                dtype=kind,
                                order=order,
                                nodes=edges.num_nodes,
                                edges=edges.num_edges,
                                **found,
                            )
                            rows.append(row)
                            print(line(row), flush=True)
                    del inputs, methods
                    torch.cuda.empty_cache()
            if args.tiles:
                for dtype in (torch.float32, torch.bfloat16):
                    compare_tiles(edges, dtype, order)
        if args.out:
            save(args.out, "gpu", machine, rows, draw(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
