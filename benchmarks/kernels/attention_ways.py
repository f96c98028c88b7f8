"""Ways to compute softmax attention over the in-edges of nodes, and layers made of it.

A :class:`Way` prepares what it needs of a graph once (masks, sparse matrices), and then maps q, k,
v (N, H, D), or the features (N, F) of a layer, to its result.  What it needs beside q, k, v and the
edge list is estimated before, so that nothing is tried that cannot fit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from inputs import HEADS, WIDTH
from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.sparse import Backend, neighbor_attention, use_backend
from common.sparse import nn as sparse_nn
from common.sparse.extension import extension_loaded

LAYER_IN = 64  # features of a node before the layer

Call = Callable[..., Tensor]  # (q, k, v), or (x,) of a layer


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        op: "attention" or "layer".
        name: in the table.
        prepare: of the edges: the call, and the bytes of what it holds for it.
        estimate: bytes it needs, of nodes, edges and whether there is a backward.
        power: how time grows with the nodes at a fixed degree.
        missing: why it cannot run here, or None.
    """

    op: str
    name: str
    prepare: Callable[[EdgeList], tuple[Call, int]]
    estimate: Callable[[int, int, bool], float]
    power: int = 1
    missing: Callable[[], str | None] = lambda: None


# ------------------------------------------------------------------------------------------- ours


def _ours(backend: Backend) -> Callable[[EdgeList], tuple[Call, int]]:
    def prepare(edges: EdgeList) -> tuple[Call, int]:
        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            still = q.new_zeros(len(q), 1)  # no coordinates
            with use_backend(backend):
                return neighbor_attention(q, k, v, still, edges, q.new_zeros(HEADS, 1, 1))[0]

        return run, 0

    return prepare


# ----------------------------------------------------------------------------------- edge by edge


def _pyg(edges: EdgeList) -> tuple[Call, int]:
    from torch_geometric.utils import scatter, softmax

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a = softmax(_logits(q, k, edges), edges.dst, num_nodes=edges.num_nodes)
        messages = a[..., None] * v.index_select(0, edges.src)
        return scatter(messages, edges.dst, dim_size=edges.num_nodes)

    return run, 0


def _pyg_lib(edges: EdgeList) -> tuple[Call, int]:
    import pyg_lib
    from torch_geometric.utils import segment

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a = pyg_lib.ops.softmax_csr(_logits(q, k, edges), edges.ptr)
        return segment(a[..., None] * v.index_select(0, edges.src), edges.ptr)

    return run, 0


def _logits(q: Tensor, k: Tensor, edges: EdgeList) -> Tensor:
    return (q.index_select(0, edges.dst) * k.index_select(0, edges.src)).sum(-1) / WIDTH**0.5


def _torch_sparse(edges: EdgeList) -> tuple[Call, int]:
    """Sampled product in CSR, softmax in COO (CSR has none), product in CSR, head by head."""
    size = (edges.num_nodes, edges.num_nodes)
    zeros = torch.zeros(edges.num_edges)
    mask = torch.sparse_csr_tensor(edges.ptr, edges.src.long(), zeros, size)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = []
        for h in range(HEADS):
            logits = torch.sparse.sampled_addmm(
                mask, q[:, h].contiguous(), k[:, h].t(), beta=0.0, alpha=WIDTH**-0.5
            )
            weights = torch.sparse.softmax(logits.to_sparse_coo(), 1).to_sparse_csr()
            heads.append(weights @ v[:, h])
        return torch.stack(heads, 1)

    return run, edges.ptr.nbytes + 8 * edges.num_edges + zeros.nbytes


# ------------------------------------------------------------------------- scaled_dot_product & co


def _padded(edges: EdgeList) -> tuple[Call, int]:
    """All rows have as many edges: a table of neighbours pads nothing here."""
    table = edges.src.view(edges.num_nodes, -1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        gathered = (t[table].transpose(1, 2) for t in (k, v))
        return F.scaled_dot_product_attention(q[:, :, None], *gathered)[:, :, 0]

    return run, 0


def _nested(edges: EdgeList) -> tuple[Call, int]:
    from torch.nested import nested_tensor_from_jagged

    each = torch.arange(edges.num_nodes + 1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = nested_tensor_from_jagged(q, each).transpose(1, 2)
        gathered = (
            nested_tensor_from_jagged(t.index_select(0, edges.src), edges.ptr).transpose(1, 2)
            for t in (k, v)
        )
        return F.scaled_dot_product_attention(rows, *gathered).transpose(1, 2).values()

    return run, each.nbytes


def _adjacency(edges: EdgeList) -> Tensor:
    mask = torch.zeros(edges.num_nodes, edges.num_nodes, dtype=torch.bool)
    mask[edges.dst, edges.src] = True
    return mask


def _dense(edges: EdgeList) -> tuple[Call, int]:
    mask = _adjacency(edges)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first = (t.transpose(0, 1)[None] for t in (q, k, v))
        return F.scaled_dot_product_attention(*first, attn_mask=mask)[0].transpose(0, 1)

    return run, mask.nbytes


def _flex(edges: EdgeList) -> tuple[Call, int]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    nodes, mask = edges.num_nodes, _adjacency(edges)
    blocks = create_block_mask(lambda _b, _h, i, j: mask[i, j], None, None, nodes, nodes, "cpu")
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first = (t.transpose(0, 1)[None].contiguous() for t in (q, k, v))
        return compiled(*first, block_mask=blocks)[0].transpose(0, 1)

    return run, mask.nbytes


# ----------------------------------------------------------------------------------------- layers


def layer(package: str, name: str) -> nn.Module:
    """PyG's layer or its twin with the same weights, features (N, F) to (N, H * D)."""
    if package == "pyg":
        import torch_geometric.nn as module
    else:
        module = sparse_nn
    torch.manual_seed(0)
    return getattr(module, name)(LAYER_IN, WIDTH, heads=HEADS)


@dataclass(frozen=True)
class LayerCall:
    """A layer on one graph; its weights take gradients, too."""

    layer: nn.Module
    edge_index: Tensor | EdgeList

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x, self.edge_index)

    def parameters(self) -> list[Tensor]:
        return list(self.layer.parameters())


def _layer(package: str, name: str) -> Callable[[EdgeList], tuple[Call, int]]:
    def prepare(edges: EdgeList) -> tuple[Call, int]:
        return LayerCall(layer(package, name), edges.edge_index.long()), 0

    return prepare


# ------------------------------------------------------------------------------------------ table


def _without(package: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        found = importlib.util.find_spec(package) is not None
        return None if found else f"{package} is not installed"

    return missing


def _nothing(_nodes: int, _edges: int, _backward: bool) -> float:
    return 0.0


def _edge_rows(arrays: float) -> Callable[[int, int, bool], float]:
    return lambda _nodes, edges, _backward: arrays * 4 * edges * HEADS * WIDTH


def _squares(bytes_each: float) -> Callable[[int, int, bool], float]:
    return lambda nodes, _edges, _backward: bytes_each * nodes**2


def _sparse_bytes(nodes: int, edges: int, backward: bool) -> float:
    """The gradient of a product with a CSR matrix is a dense one, as measured."""
    return 46.0 * nodes**2 if backward else 120.0 * HEADS * edges


def _extension() -> str | None:
    return None if extension_loaded() else "the extension is not built"


def _layers(name: str) -> list[Way]:
    rows = _edge_rows(8 if name == "TransformerConv" else 10)
    pyg = _layer("pyg", name)
    return [
        Way("layer", f"edgewise {name}", _layer("edgewise", name), _nothing),
        Way("layer", f"PyG {name}", pyg, rows, missing=_without("torch_geometric")),
    ]


WAYS: list[Way] = [
    Way("attention", "edgewise, compiled", _ours("cpp"), _nothing, 1, _extension),
    Way("attention", "edgewise, PyTorch only", _ours("torch"), _nothing),
    Way("attention", "PyG softmax + scatter", _pyg, _edge_rows(8), 1, _without("torch_geometric")),
    Way("attention", "pyg-lib softmax_csr", _pyg_lib, _edge_rows(8), 1, _without("pyg_lib")),
    Way("attention", "torch.sparse", _torch_sparse, _sparse_bytes),
    Way("attention", "padded SDPA", _padded, _edge_rows(8)),
    Way("attention", "torch.nested SDPA", _nested, _edge_rows(8)),
    Way("attention", "dense masked SDPA", _dense, _squares(6), 2),
    Way("attention", "FlexAttention, block mask", _flex, _squares(54), 2),
    *_layers("TransformerConv"),
    *_layers("GATv2Conv"),
]


def inputs_of(way: Way, nodes: int, rng: torch.Generator) -> list[Tensor]:
    """q, k, v, or the features of a layer."""
    if way.op == "layer":
        return [torch.randn(nodes, LAYER_IN, generator=rng)]
    return [torch.randn(nodes, HEADS, WIDTH, generator=rng) for _ in range(3)]


def reference(way: Way, edges: EdgeList) -> Call:
    """The plain form in float64; of a layer, the twin on it."""
    if way.op == "attention":
        return _ours("reference")(edges)[0]
    return LayerCall(layer("edgewise", way.name.split()[-1]).double(), edges)
