"""Attention over the edges of a graph: ours, and everything else PyTorch and PyG have for it.

    python benchmarks/kernels/alternatives.py --out runs/alternatives
    python benchmarks/kernels/alternatives.py --sizes 1000 10000 100000 1000000 --memory-gb 60
    python benchmarks/kernels/alternatives.py --quick               # about a minute

Softmax attention of every node over its k nearest on a lattice (in order, rows of the lattice one
after another), float32, H heads of D channels, no coordinates and no gate, which the others do not
have; then the layers of PyG from features to features, gradients of the weights included.  Each way
is first compared with the float64 plain form on a small graph, values and gradients.  Ways take
turns; the table has the fastest round.  Extra memory is what a way holds for a graph (masks, sparse
matrices) and the peak of a call above that (Linux).

What cannot run is a row that says why: a package is missing, the estimate passes ``--memory-gb``,
or the size before foretells more than ``--seconds`` for a call.  Prints tables, and writes
``alternatives.json``, ``.md`` and ``.png`` to ``--out`` after every size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from attention_ways import WAYS, Call, LayerCall, Way, inputs_of, reference
from cpu import extra_memory_mb
from inputs import HEADS, WIDTH
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from common.files.atomic import atomic_path
from common.graph.edges import EdgeList
from common.report.figures import save_figure
from common.report.machine import describe_machine
from common.report.tables import MISSING, markdown_table, number, to_json
from common.sparse import use_backend

MODES = ("forward", "forward + backward")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_SMALL = 300  # nodes of the graph that results are compared on
_TOLERANCE = 1e-4  # of the largest entry


@dataclass(frozen=True, kw_only=True)
class Row:
    """Times in ms, memory in MB (1e6 bytes); NaN where ``why`` says what stood in the way."""

    op: str
    way: str
    mode: str
    nodes: int
    edges: int
    fastest_ms: float = float("nan")
    median_ms: float = float("nan")
    extra_mb: float = float("nan")
    rounds: int = 0
    why: str = ""


def lattice(nodes: int, k: int) -> EdgeList:
    """A torus of about ``nodes`` points, each with its k nearest as in-edges."""
    reach = int(k**0.5) + 1
    side = max(round(nodes**0.5), 2 * reach + 1)
    steps = torch.arange(-reach, reach + 1)
    offset = torch.cartesian_prod(steps, steps)
    nearest = offset[torch.argsort(offset.square().sum(1), stable=True)[1 : k + 1]]
    place = torch.arange(side)
    points = torch.cartesian_prod(place, place)
    around = (points[:, None] + nearest) % side
    src = (around[..., 0] * side + around[..., 1]).sort(1).values
    return EdgeList.from_csr(torch.arange(side**2 + 1) * k, src.flatten())


def run(call: Call, inputs: list[Tensor], mode: str) -> list[Tensor]:
    """The result; with backward, then gradients of its mean square in inputs and weights."""
    if mode == "forward":
        with torch.no_grad():
            return [call(*inputs)]
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = call(*leaves)
    leaves += call.parameters() if isinstance(call, LayerCall) else []
    return [out.detach(), *torch.autograd.grad(out.square().mean(), leaves)]


def check(way: Way, call: Call, edges: EdgeList, mode: str) -> None:
    inputs = inputs_of(way, edges.num_nodes, torch.Generator().manual_seed(0))
    wide = [t.double() for t in inputs]
    with use_backend("reference"):
        want = run(reference(way, edges), wide, mode)
    # Some gradients are zero, as that of the bias of keys: all are held against the largest entry.
    scales = [float(w.abs().max()) for w in want]
    scales[1:] = [max(scales[1:], default=0.0)] * len(scales[1:])
    for n, (g, w) in enumerate(zip(run(call, inputs, mode), want, strict=True)):
        error = float((g - w).abs().max()) / scales[n]
        if not error < _TOLERANCE:
            raise AssertionError(f"{way.name}: result {n} is off by {error:.1e} of the largest")


def obstacle(
    way: Way, edges: EdgeList, mode: str, before: list[Row], args: argparse.Namespace
) -> str | None:
    """Why a way is not tried, or None."""
    missing = way.missing()
    if missing is not None:
        return missing
    needed = way.estimate(edges.num_nodes, edges.num_edges, mode == MODES[1]) / 1e9
    if needed > args.memory_gb:
        return f"needs about {needed:,.0f} GB" if needed >= 10 else f"needs about {needed:.2g} GB"
    known = [r for r in before if (r.op, r.way, r.mode) == (way.op, way.name, mode)]
    if known and known[-1].why:
        failed = known[-1].why.startswith(("needs", "would"))
        return None if failed else known[-1].why
    if known:
        growth = (edges.num_nodes / known[-1].nodes) ** way.power
        seconds = growth * known[-1].fastest_ms / 1e3
        if seconds > args.seconds:
            return f"would take about {seconds:,.0f} s"
    return None


def attempt(action: Callable[[], None]) -> str | None:
    """Why an action failed, on one line, or None."""
    try:
        action()
    except AssertionError:
        raise  # a wrong result is not a limit
    except Exception as error:  # that of a rival is a result
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0].partition('. ')[0] if lines else ''}"
    return None


def measure(edges: EdgeList, before: list[Row], args: argparse.Namespace) -> list[Row]:
    small = lattice(_SMALL, min(args.degree, 32))
    rows = []
    for op in dict.fromkeys(way.op for way in WAYS):
        ways = [way for way in WAYS if way.op == op]
        for mode in MODES:
            rows += measure_mode(ways, edges, small, mode, before, args)
    return rows


def measure_mode(
    ways: list[Way],
    edges: EdgeList,
    small: EdgeList,
    mode: str,
    before: list[Row],
    args: argparse.Namespace,
) -> list[Row]:
    times: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    why: dict[str, str] = {}
    calls: dict[str, Callable[[], object]] = {}

    def start(way: Way) -> None:
        if not any((r.op, r.way, r.mode) == (way.op, way.name, mode) for r in before):
            check(way, way.prepare(small)[0], small, mode)
        call, held = way.prepare(edges)
        inputs = inputs_of(way, edges.num_nodes, torch.Generator().manual_seed(0))
        again = lambda: run(call, inputs, mode)  # noqa: E731
        again()  # compiles, and sorts
        memory[way.name] = held / 1e6 + extra_memory_mb(again)
        calls[way.name], times[way.name] = again, []

    for way in ways:
        found = obstacle(way, edges, mode, before, args) or attempt(lambda way=way: start(way))
        if found is not None:
            why[way.name] = found
    for _ in range(args.rounds):
        for name, call in calls.items():
            begin = CLOCKS[args.clock]()
            call()
            times[name].append(1e3 * (CLOCKS[args.clock]() - begin))
    where = {"op": ways[0].op, "mode": mode, "nodes": edges.num_nodes, "edges": edges.num_edges}
    return [
        Row(
            way=name,
            **where,
            fastest_ms=min(times[name]),
            median_ms=statistics.median(times[name]),
            extra_mb=memory[name],
            rounds=len(times[name]),
        )
        if name in times
        else Row(way=name, **where, why=why[name])
        for name in (way.name for way in ways)
    ]


# ------------------------------------------------------------------------------------- the reports


def tables(rows: list[Row]) -> str:
    """For each operation and direction a table: ms (extra MB) by size, and below it why not."""
    parts = []
    for op, mode in dict.fromkeys((r.op, r.mode) for r in rows):
        chosen = [r for r in rows if (r.op, r.mode) == (op, mode)]
        sizes = list(dict.fromkeys(r.nodes for r in chosen))
        cells = {(r.way, r.nodes): r for r in chosen}
        ways = list(dict.fromkeys(r.way for r in chosen))
        lines = [[way, *(cell(cells.get((way, n))) for n in sizes)] for way in ways]
        parts.append(f"{op}, {mode}: ms (extra MB)\n")
        parts.append(markdown_table(["", *(f"n = {n:,}" for n in sizes)], lines) + "\n")
    return "\n".join(parts)


def cell(row: Row | None) -> str:
    if row is None:
        return MISSING
    if row.why:
        return row.why.replace("|", "/")
    digits = 1 if row.fastest_ms < 100 else 0
    return f"{number(row.fastest_ms, digits)} ({number(row.extra_mb, 0)})"


def draw(rows: list[Row], machine: str) -> Figure:
    """Time and extra memory against nodes, log-log; attention with backward where there is one."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    chosen = [r for r in rows if r.op == "attention"]
    for way in dict.fromkeys(r.way for r in chosen):
        both = [r for r in chosen if r.way == way and r.mode == MODES[1]]
        alone = [r for r in chosen if r.way == way and r.mode == MODES[0]]
        mine, note = (both, "") if any(not r.why for r in both) else (alone, " (forward alone)")
        done = [r for r in mine if not r.why]
        if not done:
            continue
        ours = way.startswith("edgewise")
        style = {"marker": "o", "lw": 2.4 if ours else 1.3, "ls": "-" if ours else "--"}
        stopped = len(done) < len(mine)
        for axis, values in (
            (axes[0], [r.fastest_ms / 1e3 for r in done]),
            (axes[1], [max(r.extra_mb, 0.1) / 1e3 for r in done]),
        ):
            (line,) = axis.plot([r.nodes for r in done], values, label=way + note, **style)
            if stopped:
                axis.plot(done[-1].nodes, values[-1], "x", ms=11, mew=2, color=line.get_color())
    edges = max(chosen, key=lambda r: r.nodes)
    degree = edges.edges // edges.nodes
    for axis, label in zip(axes, ("seconds", "extra memory, GB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=f"nodes ({degree} in-edges each)", ylabel=label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(
        f"Attention over the edges of a graph, forward + backward, H = {HEADS}, D = {WIDTH}; "
        f"×: the next size cannot run\n{machine}",
        fontsize="small",
    )
    return figure


def resumed(folder: Path) -> list[Row]:
    """The rows that an earlier run has left; none where there is no file."""
    file = folder / "alternatives.json"
    if not file.is_file():
        return []
    rows = json.loads(file.read_text())["rows"]
    return [Row(**{k: float("nan") if v is None else v for k, v in row.items()}) for row in rows]


def save(folder: Path, machine: str, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "command": " ".join(sys.argv), "rows": [asdict(r) for r in rows]}
    with atomic_path(folder / "alternatives.json") as partial:
        partial.write_text(to_json(result))
    with atomic_path(folder / "alternatives.md") as partial:
        partial.write_text(f"{' '.join(sys.argv)}\n{machine}\n\n{tables(rows)}")
    save_figure(draw(rows, machine), folder / "alternatives.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time graph attention against its alternatives.")
    sizes = [1000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="nodes, about")
    parser.add_argument("--degree", type=int, default=32, help="in-edges of a node")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=12.0, help="most a way may need")
    parser.add_argument("--seconds", type=float, default=60.0, help="most a call may take")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor time, where other jobs run, too"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip", nargs="+", default=[], help="ways to leave out, by their names")
    parser.add_argument("--out", type=Path, help="folder for tables and figure")
    parser.add_argument("--resume", action="store_true", help="keep the sizes that --out has")
    parser.add_argument("--quick", action="store_true", help="two small sizes, no FlexAttention")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.rounds, args.skip = [400, 900], 1, ["FlexAttention, block mask"]
    WAYS[:] = [way for way in WAYS if way.name not in args.skip]
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*([Ss]parse|[Nn]ested).*")  # prototypes
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    machine = (
        f"{describe_machine('torch-geometric', threads=args.threads)}, {args.clock} time, {load}"
    )
    print(machine)
    rows = resumed(args.out) if args.resume else []
    for nodes in tqdm(sorted(args.sizes), disable=args.quick):
        edges = lattice(nodes, args.degree)
        if not any(row.nodes == edges.num_nodes for row in rows):
            rows += measure(edges, rows, args)
        if args.out:
            save(args.out, machine, rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
