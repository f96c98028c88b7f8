"""What the layers share: arguments as PyG takes them, dropout of attention weights, heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.sparse.nn.graph import FLOWS, Graph

NodeFeatures = Tensor | tuple[Tensor, Tensor]
Channels = int | tuple[int, int]


def both_ends(value: Channels) -> tuple[int, int]:
    """Channels of sources and of destinations."""
    return (value, value) if isinstance(value, int) else value


def check_message_options(
    layer: str, aggr: object, aggr_kwargs: object, flow: str, decomposed_layers: int
) -> None:
    """Refuse what PyG's ``MessagePassing`` takes and the kernels do not do."""
    if aggr not in ("add", "sum"):
        raise UserError(f"{layer}: aggr={aggr!r} is not supported; use 'add', the default")
    if aggr_kwargs:
        raise UserError(f"{layer}: aggr_kwargs={aggr_kwargs!r} is not supported; leave it out")
    if flow not in FLOWS:
        raise UserError(f"{layer}: flow must be one of {', '.join(FLOWS)}, got {flow!r}")
    if decomposed_layers != 1:
        raise UserError(
            f"{layer}: decomposed_layers={decomposed_layers} is not supported; leave it out: no "
            "array of edges x features is built anyway"
        )


def check_sides(layer: str, flow: str, sources: int, destinations: int) -> None:
    """Refuse what PyG's layer would give the wrong number of rows."""
    if flow == "target_to_source" and sources != destinations:
        raise UserError(
            f"{layer}: flow={flow!r} with {sources} sources and {destinations} destinations is not "
            "supported; reverse edge_index instead"
        )


def dropped(weights: Tensor, p: float, training: bool, graph: Graph) -> Tensor:
    """Dropout of attention weights (E, H), from torch's random state, as ``F.dropout`` draws.

    It is drawn in the order of ``edge_index``: the same seed drops the same edges as in PyG.
    """
    if not training or p == 0:
        return weights
    keep = F.dropout(torch.ones_like(weights), p, training=True)
    return weights * graph.sorted(keep)


def merge_heads(out: Tensor, graph: Graph, concat: bool) -> Tensor:
    """(destinations, H * C), or the mean over heads (destinations, C), of (N, H, C)."""
    out = out[: graph.destinations]
    return out.flatten(1) if concat else out.mean(1)


def check_edge_attr(layer: str, edge_attr: Tensor, edge_dim: int | None, num_edges: int) -> None:
    if edge_dim is None:
        raise UserError(
            f"{layer}: edge_attr needs edge_dim={edge_attr.shape[-1]} in the constructor"
        )
    if edge_attr.shape != (num_edges, edge_dim):
        raise UserError(
            f"{layer}: edge_attr must have shape (E, edge_dim) = ({num_edges}, {edge_dim}), got "
            f"{tuple(edge_attr.shape)}"
        )
