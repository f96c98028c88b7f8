"""The kNN graph of nodes by float32 distances, as an EdgeList or as a table.

Row i of the result holds the k nodes of its own graph nearest to node i, never i itself; equal
distances are broken by node index.  All engines but ``"approximate"`` are exact and agree with each
other.  Up to four dimensions the graph is the same on every device; above, distances come from a
matrix product, and nodes whose distances differ by its rounding only may swap between machines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import approximate, exact
from common.graph.knn.engines import ENGINES, Engine, Search, run_engine

# Nodes per graph, as a typical node sees it, from which a tree is faster than all pairs on a CPU.
_TREE_NODES = 1000
_TREE_WIDTH = 3


def knn_edges(
    x: Tensor,
    k: int,
    graph_ptr: Tensor | None = None,
    engine: Engine = "auto",
    *,
    approximate_above: int | None = None,
    recall: float = 0.95,
    seed: int = 0,
) -> EdgeList:
    """Connect every node to its k nearest neighbours, which become its in-edges.

    Args:
        x: (N, D) float, positions or embeddings; float64 is compared in float32.
        k: neighbours per node; a graph of n <= k nodes gives n - 1 each.
        graph_ptr: (B + 1,) int64, nodes ``graph_ptr[b]:graph_ptr[b + 1]`` form graph b.  One graph
            when left out.
        engine: ``"auto"`` takes a KD-tree on a CPU in 1 to 3 dimensions from about 1,000 nodes per
            graph, else ``"exact"``.  The trees and ``"approximate"`` compute on the CPU; the
            result is on the device of ``x``.
        approximate_above: lets ``"auto"`` choose ``"approximate"`` where it would compare all
            pairs and a graph has more nodes than this.  Never when left out.
        recall: share of the true neighbours ``"approximate"`` has to reach; others ignore it.
        seed: of ``"approximate"``; others ignore it.

    Returns:
        Edges from neighbour (source) to node (destination).

    Raises:
        ValueError: if ``x`` is not a finite (N, D) matrix whose squared distances fit into float32,
            ``k`` is not positive, ``graph_ptr`` does not run from 0 to N, ``engine`` is unknown or
            cannot handle D, or ``recall`` is outside (0, 1).
        ImportError: if the engine's library is not installed.
    """
    index, valid = knn_index(
        x, k, graph_ptr, engine, approximate_above=approximate_above, recall=recall, seed=seed
    )
    index = torch.where(valid, index, exact.FAR).sort(dim=1).values  # (N, k), sources ascending
    valid = index != exact.FAR
    degree = valid.sum(1)
    ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    dst = torch.repeat_interleave(torch.arange(x.shape[0], device=x.device), degree)
    return EdgeList(index[valid], dst, ptr)


def knn_index(
    x: Tensor,
    k: int,
    graph_ptr: Tensor | None = None,
    engine: Engine = "auto",
    *,
    approximate_above: int | None = None,
    recall: float = 0.95,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """As :func:`knn_edges`, as a table ordered by distance.

    Returns:
        index: (N, k) int64, nearest first; arbitrary where not valid.
        valid: (N, k) bool, false past the end of a graph of n <= k nodes.
    """
    names = ("auto", *ENGINES)
    if engine not in names:
        raise UserError(f"engine must be one of {', '.join(names)}, got {engine!r}")
    values, ptr = _checked(x, k, graph_ptr)
    name = _choose(values, ptr, approximate_above) if engine == "auto" else engine
    with torch.autocast(x.device.type, enabled=False):  # half-precision products would break keys
        return run_engine(name, Search(values, k, ptr, recall, seed))


def knn_recall(
    x: Tensor,
    index: Tensor,
    valid: Tensor,
    sample: int,
    generator: torch.Generator,
    graph_ptr: Tensor | None = None,
) -> float:
    """Share of true neighbours in a table, on sampled rows.

    A neighbour counts as true if it is no farther than the k-th of the exact search, so that of
    several nodes at that distance any may have been taken.

    Args:
        x: (N, D) float, as given to the search.
        index: (N, k) int64, neighbours of each row.
        valid: (N, k) bool.
        sample: rows to draw without replacement; all of them if there are fewer.
        generator: draws the rows; on the CPU.
        graph_ptr: as given to the search.

    Returns:
        Mean over the sampled rows that have a neighbour; 1 if there is none.

    Raises:
        ValueError: on bad ``x`` or ``graph_ptr``, tables that do not fit ``x``, or ``sample`` < 1.
    """
    if index.dim() != 2 or index.shape[0] != x.shape[0] or valid.shape != index.shape:
        raise UserError(
            f"index and valid must have shape ({x.shape[0]}, k), got {tuple(index.shape)} and "
            f"{tuple(valid.shape)}"
        )
    if sample < 1:
        raise UserError(f"sample must be at least 1, got {sample}")
    values, ptr = _checked(x, index.shape[1], graph_ptr)
    rows = torch.randperm(x.shape[0], generator=generator)[:sample].sort().values.to(x.device)
    graph = torch.searchsorted(ptr, rows, right=True) - 1
    found, wanted = 0, 0
    for b in graph.unique().tolist():
        among = (int(ptr[b]), int(ptr[b + 1]))
        chosen = rows[graph == b]
        truth, exists = exact.nearest_to_rows(values, index.shape[1], chosen, among)
        true = approximate.squared_distances(values, chosen, truth).masked_fill(~exists, 0)
        limit = true.amax(1, keepdim=True) * (1 + 1e-6)
        table = torch.where(valid[chosen], index[chosen], 0)
        d2 = approximate.squared_distances(values, chosen, table)
        found += int((valid[chosen] & (d2 <= limit)).sum())
        wanted += int(exists.sum())
    return found / wanted if wanted else 1.0


def _choose(x: Tensor, graph_ptr: Tensor, approximate_above: int | None) -> Engine:
    sizes = (graph_ptr[1:] - graph_ptr[:-1]).double()
    typical = float(sizes.square().sum() / max(1, x.shape[0]))
    if x.device.type == "cpu" and 1 <= x.shape[1] <= _TREE_WIDTH and typical >= _TREE_NODES:
        return "kdtree"
    largest = int(sizes.max()) if sizes.numel() else 0
    if approximate_above is not None and largest > approximate_above and x.shape[1] > 0:
        return "approximate"
    return "exact"


def _checked(x: Tensor, k: int, graph_ptr: Tensor | None) -> tuple[Tensor, Tensor]:
    """``x`` in float32 without gradient, and the row pointer of its graphs on the same device."""
    if x.dim() != 2 or not x.is_floating_point():
        raise UserError(f"x must be a float (N, D) matrix, got {tuple(x.shape)} {x.dtype}")
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x).all(1)).sum())
        raise UserError(f"x must be finite; {bad} of {x.shape[0]} rows hold NaN or infinity")
    values = x.detach().float()
    # |a - b|² <= 4 max |x|²; an overflow would make far nodes tie.
    longest = float(torch.linalg.vector_norm(values, dim=1).max()) if values.numel() else 0.0
    if not 4 * longest**2 <= torch.finfo(torch.float32).max:
        raise UserError(
            f"x must be below about 1e19 for squared distances in float32, got values up to "
            f"{float(x.abs().max()):.3g}; scale x"
        )
    if graph_ptr is None:
        return values, torch.tensor([0, x.shape[0]], device=x.device)
    steps = graph_ptr[1:] - graph_ptr[:-1]
    if int(graph_ptr[0]) != 0 or int(graph_ptr[-1]) != x.shape[0] or bool((steps < 0).any()):
        raise UserError(f"graph_ptr must rise from 0 to {x.shape[0]}, got {graph_ptr.tolist()}")
    return values, graph_ptr.to(x.device)
