"""Forward and backward of neighbour attention and of the edge gate: time and extra memory.

Usage::

    python benchmarks/sparse_attention.py                   # n = 384, 1300, 5000
    python benchmarks/sparse_attention.py --sizes 20000 --json results.json
    python benchmarks/sparse_attention.py --quick           # seconds

Every node attends to its k nearest neighbours in an 8-dimensional point cloud.  Each method runs
in float32 on the same inputs and must first agree with the float64 plain form on a small graph and
with the other methods at the size that is timed.  Methods take turns, so that other load on the
machine meets all of them; the table gives the fastest and the median round.  Extra memory is the
peak resident size above that before the call (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common.edges import EdgeList
from common.sparse import Backend, edge_gate, neighbor_attention, use_backend
from common.sparse.backend import extension_loaded

BETA = 2.0
DENSE_LIMIT = 6000  # nodes; the dense forms hold several n x n x H arrays

Inputs = dict[str, Tensor]
Method = Callable[[Inputs, EdgeList], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Row:
    """One line of the result table; times in milliseconds, memory in MB."""

    op: str
    method: str
    nodes: int
    edges: int
    fastest_ms: float
    median_ms: float
    rounds: int
    extra_mb: float


def knn_graph(nodes: int, k: int, rng: torch.Generator) -> EdgeList:
    points = torch.randn(nodes, 8, generator=rng)
    source = [
        torch.cdist(block, points).topk(min(k + 1, nodes), largest=False).indices[:, 1:]
        for block in points.split(1024)
    ]
    src = torch.cat(source)
    dst = torch.arange(nodes)[:, None].expand_as(src)
    return EdgeList.from_edge_index(torch.stack([src.flatten(), dst.flatten()]), nodes)


def attention_inputs(edges: EdgeList, rng: torch.Generator) -> Inputs:
    nodes, heads, width = edges.num_nodes, 4, 32
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys("qkv", (nodes, heads, width)),
        "x": (nodes, 2),
        "w_x": (heads, 2, 2),
        "gate": (edges.num_edges,),
    }
    return {name: torch.randn(*s, generator=rng) for name, s in shapes.items()}


def gate_inputs(edges: EdgeList, rng: torch.Generator) -> Inputs:
    width, hidden = 128, 64
    shapes = {
        "h": (edges.num_nodes, width),
        "w1": (hidden, 4 * width),
        "b1": (hidden,),
        "w2": (hidden, hidden),
        "b2": (hidden,),
        "w3": (1, hidden),
        "b3": (1,),
    }
    return {name: torch.randn(*s, generator=rng) / s[-1] ** 0.5 for name, s in shapes.items()}


def ours(backend: Backend) -> Method:
    def run(t: Inputs, edges: EdgeList) -> tuple[Tensor, ...]:
        with use_backend(backend):
            if "h" in t:
                layers = [t[name] for name in ("w1", "b1", "w2", "b2", "w3", "b3")]
                return (edge_gate(t["h"], edges, *layers),)
            return neighbor_attention(
                t["q"], t["k"], t["v"], t["x"], edges, t["w_x"], gate=t["gate"], beta=BETA
            )

    return run


def dense_attention(t: Inputs, edges: EdgeList) -> tuple[Tensor, ...]:
    nodes, _, width = t["q"].shape
    # -inf where there is no edge, so that the softmax masks without a second array.
    gate = t["gate"].new_full((nodes, nodes), -torch.inf)
    gate = gate.index_put((edges.dst, edges.src), BETA * t["gate"])
    logits = torch.einsum("ihd,jhd->hij", t["q"], t["k"]) / width**0.5 + gate
    a = logits.softmax(-1)
    # sum_j a (x_j - x_i) = (a x)_i - x_i, as the weights of a row sum to one
    moment = torch.einsum("hij,jc->ihc", a, t["x"]) - t["x"][:, None]
    out = torch.einsum("hij,jhd->ihd", a, t["v"])
    return out, torch.einsum("hcd,ihd->ic", t["w_x"], moment)


def edge_list_logits(t: Inputs, edges: EdgeList) -> Tensor:
    logits = (t["q"].index_select(0, edges.dst) * t["k"].index_select(0, edges.src)).sum(-1) / t[
        "q"
    ].shape[-1] ** 0.5
    return logits + BETA * t["gate"][:, None]


def edge_list_messages(t: Inputs, edges: EdgeList, a: Tensor) -> tuple[Tensor, Tensor]:
    difference = t["x"].index_select(0, edges.src) - t["x"].index_select(0, edges.dst)
    step = torch.einsum("eh,hcd,ed->ec", a, t["w_x"], difference)
    return a[:, :, None] * t["v"].index_select(0, edges.src), step


def pyg_attention(t: Inputs, edges: EdgeList) -> tuple[Tensor, ...]:
    from torch_geometric.utils import scatter, softmax

    a = softmax(edge_list_logits(t, edges), edges.dst, num_nodes=edges.num_nodes)
    messages = edge_list_messages(t, edges, a)
    return tuple(scatter(m, edges.dst, dim_size=edges.num_nodes) for m in messages)


def torch_scatter_attention(t: Inputs, edges: EdgeList) -> tuple[Tensor, ...]:
    from torch_scatter import gather_csr, segment_csr

    logits = edge_list_logits(t, edges)
    peak = gather_csr(segment_csr(logits.detach(), edges.ptr, reduce="max"), edges.ptr)
    a = (logits - peak).exp()
    a = a / gather_csr(segment_csr(a, edges.ptr), edges.ptr)
    return tuple(segment_csr(m, edges.ptr) for m in edge_list_messages(t, edges, a))


def naive_gate(t: Inputs, edges: EdgeList) -> tuple[Tensor, ...]:
    hi, hj = t["h"].index_select(0, edges.dst), t["h"].index_select(0, edges.src)
    z = F.linear(torch.cat([hi, hj, (hi - hj).abs(), hi * hj], 1), t["w1"], t["b1"])
    z = F.linear(F.gelu(z), t["w2"], t["b2"])
    return (F.linear(F.gelu(z), t["w3"], t["b3"]).squeeze(-1),)


def methods_for(op: str, nodes: int) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    if extension_loaded():
        methods["edgewise, compiled"] = ours("cpp")
    methods["edgewise, PyTorch only"] = ours("torch")
    if op == "edge_gate":
        return {**methods, "naive PyTorch": naive_gate}
    if nodes <= DENSE_LIMIT:
        methods["dense masked"] = dense_attention
    methods["PyG softmax + scatter"] = pyg_attention
    try:
        import torch_scatter  # noqa: F401
    except (ImportError, OSError):
        print("torch_scatter is not importable: left out")
    else:
        methods["torch_scatter segment_csr"] = torch_scatter_attention
    return methods


def forward_backward(method: Method, inputs: Inputs, edges: EdgeList) -> list[Tensor]:
    """Outputs and the gradients of the sum of their squares."""
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    outputs = method(leaves, edges)
    total = torch.stack([o.square().sum() for o in outputs]).sum()
    return [*outputs, *torch.autograd.grad(total, list(leaves.values()))]


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
        before = _status_kb("VmRSS")
        call()
        return (_status_kb("VmHWM") - before) / 1024
    except OSError:
        return float("nan")


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def measure(op: str, nodes: int, k: int, rounds: int) -> list[Row]:
    rng = torch.Generator().manual_seed(nodes)
    make = attention_inputs if op == "attention" else gate_inputs
    small = knn_graph(97, 20, rng)
    small_inputs = make(small, rng)
    exact = forward_backward(
        ours("reference"), {name: t.double() for name, t in small_inputs.items()}, small
    )
    edges = knn_graph(nodes, min(k, nodes - 1), rng)
    inputs = make(edges, rng)
    methods = methods_for(op, nodes)
    first: list[Tensor] | None = None
    for name, method in methods.items():
        agree(forward_backward(method, small_inputs, small), exact, 1e-4, name)
        result = [t.detach() for t in forward_backward(method, inputs, edges)]
        first = result if first is None else first
        agree(result, first, 1e-3, f"{name}, n = {nodes}")
    del result, first
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            forward_backward(method, inputs, edges)
            times[name].append(1e3 * (time.perf_counter() - start))
    rows = []
    for name, method in methods.items():
        extra = extra_memory_mb(partial(forward_backward, method, inputs, edges))
        fastest, median = min(times[name]), statistics.median(times[name])
        rows.append(Row(op, name, nodes, edges.num_edges, fastest, median, rounds, extra))
    return rows


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the sparse kernels against their rivals.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 1300, 5000])
    parser.add_argument("--k", type=int, default=100, help="in-edges of every node")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ops", nargs="+", choices=["attention", "edge_gate"], default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.k, args.rounds = [200], 40, 2
    torch.set_num_threads(args.threads)
    machine = {
        "processor": processor(),
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "vectors": torch.ops.edgewise.cpu_capability() if extension_loaded() else "not built",
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows: list[Row] = []
    for op in args.ops or ["attention", "edge_gate"]:
        for nodes in args.sizes:
            found = measure(op, nodes, args.k, args.rounds)
            print(f"\n{op}, n = {nodes}, {found[0].edges} edges, forward + backward")
            print(
                f"  {'method':30} {'fastest ms':>10} {'median ms':>10} {'extra MB':>9} {'ratio':>6}"
            )
            for row in found:
                print(
                    f"  {row.method:30} {row.fastest_ms:10.2f} {row.median_ms:10.2f} "
                    f"{row.extra_mb:9.0f} {row.fastest_ms / found[0].fastest_ms:6.1f}"
                )
            rows += found
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
        )


if __name__ == "__main__":
    main()
