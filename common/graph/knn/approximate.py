"""Approximate nearest neighbours from inverted lists: faiss' IVF-Flat, tuned to a recall.

The nodes of a graph are divided among the centroids of a k-means clustering; a row is compared
with the nodes of its ``nprobe`` nearest centroids only (Jégou, Douze and Schmid 2011).  ``nprobe``
is the smallest of a geometric series whose recall, measured on sampled rows against the exact
engine, is at least the one asked for, two standard errors of the sample below its mean.

Lists instead of a navigable graph (HNSW) because they are the faster whole: every node is a query
here, just once, so building counts, and a list that is in the cache serves all rows of its
neighbourhood, which are asked one after the other.  Where distances say little, as between noisy
cells in many principal components, a third of the lists may have to be probed, and below some
20,000 nodes the exact engine is then faster.

Distances are float32 sums of squared differences, ranked with the node index as everywhere in
:mod:`common.graph.knn`.  The result depends on ``x``, ``k``, ``recall``, ``seed`` and faiss' build;
the k-means also on the rounding of matrix products, and so on the machine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.graph.knn import exact
from common.rng import generator_for

_log = logging.getLogger(__name__)

# Smaller graphs are compared whole: the clustering would take longer.
_MIN_NODES = 4096
# Lists per square root of the nodes, and points per list that the k-means sees.
_LISTS_PER_ROOT = 2.0
_TRAINING_POINTS = 64
_TRAINING_STEPS = 8
# Candidates beyond k and the row itself, so that ties at the edge are mostly broken by index.
_EXTRA = 4
_STEP = 1.4  # ratio of successive nprobe
_SAMPLE = 256
_ROWS = 2**14


def nearest(
    x: Tensor, k: int, graph_ptr: Tensor, recall: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Most of the k nearest nodes of the same graph, without the node itself.

    Graphs of fewer than 4,096 nodes are searched exactly, and so are rows whose lists hold fewer
    than k nodes: as many neighbours come back as from the exact engine.

    Args:
        x: (N, D) float32, finite, D at least 1, on the CPU.
        k: neighbours per node.
        graph_ptr: (B + 1,) int64, rising from 0 to N.
        recall: share of true neighbours to reach, above 0 and below 1.
        seed: of the k-means and of the sample.

    Returns:
        index (N, k) int64, nearest first, and valid (N, k) bool.

    Raises:
        ValueError: if ``recall`` is outside (0, 1).
    """
    if not 0 < recall < 1:
        raise UserError(
            f"recall must be above 0 and below 1, got {recall}; for 1 use engine 'exact'"
        )
    import faiss

    x = x.contiguous()
    index = torch.zeros(x.shape[0], k, dtype=torch.int64)
    valid = torch.zeros(x.shape[0], k, dtype=torch.bool)
    large = [g for g in pairwise(graph_ptr.tolist()) if g[1] - g[0] >= max(_MIN_NODES, 8 * k)]
    left = 0
    for number, (start, stop) in enumerate([*large, (x.shape[0], x.shape[0])]):
        if start > left:  # small graphs since the last large one
            small = graph_ptr.clamp(left, start) - left  # the others become empty
            index[left:start], valid[left:start] = exact.nearest(x[left:start], k, small)
            index[left:start] += left
        if stop > start:
            with _threads(faiss):
                found = _search_graph(faiss, x[start:stop], k, recall, generator_for(seed, number))
            index[start:stop] = exact.node_of(found) + start
            valid[start:stop] = True
        left = stop
    return index, valid


def _search_graph(
    faiss: ModuleType, x: Tensor, k: int, recall: float, generator: torch.Generator
) -> Tensor:
    """(n, k) ascending keys of one graph."""
    n, d = x.shape
    points = x.numpy()
    lists = max(1, round(_LISTS_PER_ROOT * math.sqrt(n)))
    quantizer = faiss.IndexFlatL2(d)
    index = faiss.IndexIVFFlat(quantizer, d, lists, faiss.METRIC_L2)
    index.cp.seed = int(torch.randint(2**31, (1,), generator=generator))
    index.cp.niter = _TRAINING_STEPS
    index.cp.max_points_per_centroid = _TRAINING_POINTS
    index.cp.min_points_per_centroid = 1  # no warning on standard output
    chosen = torch.randperm(n, generator=generator)[: _TRAINING_POINTS * lists]
    index.train(points[chosen.numpy()])
    index.add(points)
    nprobe, reached = _tune(faiss, index, x, k, recall, generator)
    _log.info(
        "approximate neighbours: %d nodes, %d lists, %d probed, recall %.3f on %d rows",
        *(n, lists, nprobe, reached, min(n, _SAMPLE)),
    )
    # Rows of one list are asked together, while its nodes are in the cache.
    nearest_list = quantizer.search(points, 1)[1][:, 0]
    order = torch.from_numpy(np.argsort(nearest_list, kind="stable"))
    keys = torch.empty(n, k, dtype=torch.int64)
    for rows in order.split(_ROWS):
        keys[rows] = _search_rows(faiss, index, x, rows, k, nprobe)
    short = (keys[:, -1] == exact.FAR).nonzero()[:, 0]
    if short.numel():
        found, _ = exact.nearest_to_rows(x, k, short, (0, n))
        keys[short] = exact.keys_of(torch.zeros(found.shape), found)
    return keys


def _tune(
    faiss: ModuleType, index: Any, x: Tensor, k: int, recall: float, generator: torch.Generator
) -> tuple[int, float]:
    """The number of lists to probe, and the recall it reaches on the sample."""
    rows = torch.randperm(x.shape[0], generator=generator)[:_SAMPLE]
    truth, _ = exact.nearest_to_rows(x, k, rows, (0, x.shape[0]))
    # By distance: of several nodes as far as the k-th, any is a right answer.
    limit = squared_distances(x, rows, truth).amax(1, keepdim=True) * (1 + 1e-6)
    probed = 1.0
    while True:
        nprobe = min(index.nlist, round(probed))
        found = _search_rows(faiss, index, x, rows, k, nprobe)
        missing = found == exact.FAR
        d2 = squared_distances(x, rows, torch.where(missing, 0, exact.node_of(found)))
        share = ((d2 <= limit) & ~missing).float().mean(1)
        lower = share.mean() - 2 * share.std() / math.sqrt(share.numel())
        if lower >= recall or nprobe == index.nlist:
            return nprobe, float(share.mean())
        probed = max(probed + 1, probed * _STEP)


def _search_rows(
    faiss: ModuleType, index: Any, x: Tensor, rows: Tensor, k: int, nprobe: int
) -> Tensor:
    """(R, k) ascending keys, ``FAR`` where the lists hold too few nodes."""
    settings = faiss.SearchParametersIVF(nprobe=nprobe)
    d2, found = index.search(x[rows].numpy(), k + 1 + _EXTRA, params=settings)
    nodes = torch.from_numpy(found)
    keys = exact.keys_of(torch.from_numpy(d2).clamp_(min=0), nodes)
    keys[(nodes < 0) | (nodes == rows[:, None])] = exact.FAR
    return keys.sort(dim=1).values[:, :k]


def squared_distances(x: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """(R, M) float64 squared distances from rows (R,) to others (R, M), by differences."""
    result = torch.empty(others.shape, dtype=torch.float64, device=x.device)
    for start in range(0, rows.numel(), 64):
        some = slice(start, start + 64)
        difference = x[rows[some]].double()[:, None] - x[others[some]].double()
        result[some] = difference.square().sum(2)
    return result


@contextmanager
def _threads(faiss: ModuleType) -> Iterator[None]:
    """faiss on as many threads as torch; its own setting afterwards."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
