"""What the kernel benchmarks share: sizes, inputs, methods, passes and rows of results.

The scripts beside this file import it by its bare name: run them as scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from common.files.atomic import atomic_path
from common.graph.edges import EdgeList
from common.report.figures import save_figure
from common.report.tables import to_json
from common.sparse import Backend, edge_gate, neighbor_attention, use_backend

HEADS, WIDTH, COORDS = 4, 32, 2
FEATURES, HIDDEN = 128, 64
BETA = 2.0
LAYERS = ("w1", "b1", "w2", "b2", "w3", "b3")
OPS = ("attention", "edge_gate")

Inputs = dict[str, Tensor]
Method = Callable[[Inputs, EdgeList], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results; times in milliseconds, memory in MB (1e6 bytes)."""

    op: str
    method: str
    mode: str  # forward, or forward + backward
    dtype: str
    order: str  # of the nodes in memory
    nodes: int
    edges: int
    median_ms: float
    extra_mb: float  # peak above what the inputs hold
    copy_fraction: float  # of the bandwidth of a copy, by arrays moved once

    @property
    def bytes_per_edge(self) -> float:
        return 1e6 * self.extra_mb / self.edges


# ------------------------------------------------------------------------------------- the inputs


def make_inputs(
    op: str,
    edges: EdgeList,
    rng: torch.Generator,
    dtype: torch.dtype = torch.float32,
    wide: torch.dtype = torch.float32,
) -> Inputs:
    """Random inputs on the device of ``rng``: q, k, v in ``dtype``, all others in ``wide``."""
    nodes = edges.num_nodes
    if op == "attention":
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys("qkv", (nodes, HEADS, WIDTH)),
            "x": (nodes, COORDS),
            "w_x": (HEADS, COORDS, COORDS),
            "gate": (edges.num_edges,),
        }
    else:
        shapes = {
            **{"h": (nodes, FEATURES), "w1": (HIDDEN, 4 * FEATURES), "b1": (HIDDEN,)},
            **{"w2": (HIDDEN, HIDDEN), "b2": (HIDDEN,), "w3": (1, HIDDEN), "b3": (1,)},
        }
    result = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=rng, device=rng.device)
        scaled = values / shape[-1] ** 0.5 if op == "edge_gate" else values
        result[name] = scaled.to(dtype if name in "qkv" else wide)
    return result


# ------------------------------------------------------------------------------------- the methods


def ours(backend: Backend) -> Method:
    def run(t: Inputs, edges: EdgeList) -> list[Tensor]:
        with use_backend(backend):
            if "h" in t:
                return [edge_gate(t["h"], edges, *(t[name] for name in LAYERS))]
            q, k, v, x, w_x = (t[name] for name in ("q", "k", "v", "x", "w_x"))
            return list(neighbor_attention(q, k, v, x, edges, w_x, gate=t["gate"], beta=BETA))

    return run


def _logits(t: Inputs, edges: EdgeList) -> Tensor:
    product = t["q"].index_select(0, edges.dst) * t["k"].index_select(0, edges.src)
    return product.sum(-1).float() / WIDTH**0.5 + BETA * t["gate"][:, None]


def _messages(t: Inputs, edges: EdgeList, a: Tensor) -> tuple[Tensor, Tensor]:
    difference = t["x"].index_select(0, edges.src) - t["x"].index_select(0, edges.dst)
    step = torch.einsum("eh,hcd,ed->ec", a, t["w_x"], difference)
    v = t["v"].index_select(0, edges.src)
    return a[:, :, None].to(v.dtype) * v, step


def pyg_attention(t: Inputs, edges: EdgeList) -> list[Tensor]:
    from torch_geometric.utils import scatter, softmax

    index = edges.dst.long()
    a = softmax(_logits(t, edges), index, num_nodes=edges.num_nodes)
    return [scatter(m, index, dim_size=edges.num_nodes) for m in _messages(t, edges, a)]


def torch_scatter_attention(t: Inputs, edges: EdgeList) -> list[Tensor]:
    from torch_scatter import gather_csr, segment_csr

    logits = _logits(t, edges)
    peak = gather_csr(segment_csr(logits.detach(), edges.ptr, reduce="max"), edges.ptr)
    a = (logits - peak).exp()
    a = a / gather_csr(segment_csr(a, edges.ptr), edges.ptr)
    return [segment_csr(m, edges.ptr) for m in _messages(t, edges, a)]


def naive_gate(t: Inputs, edges: EdgeList) -> list[Tensor]:
    hi, hj = t["h"].index_select(0, edges.dst), t["h"].index_select(0, edges.src)
    z = F.linear(torch.cat([hi, hj, (hi - hj).abs(), hi * hj], 1), t["w1"], t["b1"])
    z = F.linear(F.gelu(z), t["w2"], t["b2"])
    return [F.linear(F.gelu(z), t["w3"], t["b3"]).squeeze(-1)]


def importable(name: str) -> bool:
    try:
        __import__(name)
    except (ImportError, OSError):
        return False
    return True


def edge_list_rivals(op: str, inputs: Inputs) -> dict[str, Method]:
    """What people write with edge lists, by the name in the table."""
    if op == "edge_gate":
        return {"naive, 512 features an edge": naive_gate}
    rivals: dict[str, Method] = {}
    if importable("torch_geometric"):
        rivals["PyG softmax + scatter"] = pyg_attention
    if importable("torch_scatter") and inputs["q"].dtype == torch.float32:
        rivals["torch_scatter segment_csr"] = torch_scatter_attention
    return rivals


def rivals_gb(op: str, edges: EdgeList, itemsize: int = 4) -> float:
    """What autograd keeps of them for backward: about 8 arrays of E x H x D, or of E x 4F."""
    row = HEADS * WIDTH * itemsize if op == "attention" else 4 * FEATURES * 4
    return 8 * edges.num_edges * row / 1e9


# -------------------------------------------------------------------------------------- the passes


def forward(method: Method, inputs: Inputs, edges: EdgeList) -> list[Tensor]:
    with torch.no_grad():
        return method(inputs, edges)


def forward_backward(method: Method, inputs: Inputs, edges: EdgeList) -> list[Tensor]:
    """Outputs, then the gradients of the sum of their squares; unused inputs have none."""
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    outputs = method(leaves, edges)
    wide = [o if o.itemsize >= 4 else o.float() for o in outputs]
    total = torch.stack([o.square().sum() for o in wide]).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return [*(o.detach() for o in outputs), *(g for g in grads if g is not None)]


def exact(inputs: Inputs, edges: EdgeList) -> list[Tensor]:
    """Outputs and gradients of the plain form in float64."""
    wide = {name: t.double() for name, t in inputs.items()}
    return forward_backward(ours("reference"), wide, edges)


MODES = {"forward": forward, "forward + backward": forward_backward}


def save(
    folder: Path, stem: str, machine: dict[str, Any], rows: Sequence[Row], figure: Figure
) -> None:
    """``<stem>.json`` and ``<stem>.png``; called after every size, so that a stopped run leaves
    what it has."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "rows": [asdict(row) for row in rows]}
    with atomic_path(folder / f"{stem}.json") as temporary:
        temporary.write_text(to_json(result))
    save_figure(figure, folder / f"{stem}.png")
