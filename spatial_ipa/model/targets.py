"""What a miniset or slide is scored against: its walk graph, scales, stress pairs and rows.

A :class:`Target` describes one graph or, after :func:`union_targets`, a disjoint union of B graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from spatial_ipa.geometry import graphs
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.walks import build_predicted_rw_operator

NUM_REPULSION_PAIRS = 256

GateWalk = Literal["one_step", "two_steps", "mixed"]
"""Which random walk on the true layout a gate is taught, see :func:`gate_target`."""


@dataclass(frozen=True)
class Target:
    """Attributes (N nodes, B graphs, P pairs, M chosen rows):

    xy: (N, 2) gauge-fixed true coordinates.
    graph: (N,) int64 graph of each node, non-decreasing.
    steps: (B,) int64 number of walk powers compared.
    edges: symmetrised spatial kNN graph.
    scale: (N,) local scale s_i.
    pairs: (2, P) pairs of the stress.
    random_pairs: (2, 256 B) pairs of the repulsion.
    rows: (M,) int64 nodes whose walks are compared, ascending; all N of them unless sampled.
    """

    xy: Tensor
    graph: Tensor
    steps: Tensor
    edges: EdgeList
    scale: Tensor
    pairs: Tensor
    random_pairs: Tensor
    rows: Tensor

    @property
    def num_graphs(self) -> int:
        return self.steps.numel()

    def row_columns(self) -> Tensor:
        """(M,) position of each chosen row among those of its graph: its column in a walk."""
        graph = self.graph[self.rows]
        count = torch.bincount(graph, minlength=self.num_graphs)
        offset = count.cumsum(0) - count
        return torch.arange(len(self.rows), device=self.rows.device) - offset[graph]

    def to(self, device: torch.device | str) -> Target:
        return Target(*(value.to(device) for value in self.__dict__.values()))


def build_target(xy: Tensor, generator: torch.Generator, num_rows: int | None = None) -> Target:
    """Build the target of one graph.

    Args:
        xy: (n, 2) coordinates in any unit and pose; the target is on their device.
        generator: on the CPU; draws rings, landmarks, repulsion pairs and sampled rows, in this
            order.
        num_rows: compare the walks of this many uniformly drawn rows instead of all n.

    Raises:
        ValueError: if n is below 8 or coordinates coincide so that a local scale is 0.
    """
    n = xy.shape[0]
    if n < 8:
        raise UserError(f"a target needs at least 8 points, got {n}")
    xy = gauge_fix(xy.float())
    k = graphs.adaptive_k(n)
    edges, scale = graphs.spatial_graph(xy, k)
    pairs = graphs.multiscale_pairs(xy, edges, k, generator)
    # The generator stays on the CPU, so that every device gets the same draws.
    first = torch.randint(n, (NUM_REPULSION_PAIRS,), generator=generator)
    second = (first + torch.randint(1, n, (NUM_REPULSION_PAIRS,), generator=generator)) % n
    if num_rows is None or num_rows >= n:
        rows = torch.arange(n)
    else:
        rows = torch.randperm(n, generator=generator)[:num_rows].sort().values
    device = xy.device
    return Target(
        xy=xy,
        graph=torch.zeros(n, dtype=torch.int64, device=device),
        steps=torch.tensor([graphs.walk_steps(n)], device=device),
        edges=edges,
        scale=scale,
        pairs=pairs,
        random_pairs=torch.stack([first, second]).to(device),
        rows=rows.to(device),
    )


def union_targets(targets: Sequence[Target]) -> Target:
    """The disjoint union of single-graph targets or of unions."""
    nodes = torch.tensor([0] + [t.xy.shape[0] for t in targets]).cumsum(0).tolist()
    counts = torch.tensor([0] + [t.num_graphs for t in targets]).cumsum(0).tolist()
    shifted = list(zip(targets, nodes, strict=False))
    return Target(
        xy=torch.cat([t.xy for t in targets]),
        graph=torch.cat([t.graph + c for t, c in zip(targets, counts, strict=False)]),
        steps=torch.cat([t.steps for t in targets]),
        edges=EdgeList.disjoint_union([t.edges for t in targets]),
        scale=torch.cat([t.scale for t in targets]),
        pairs=torch.cat([t.pairs + s for t, s in shifted], dim=1),
        random_pairs=torch.cat([t.random_pairs + s for t, s in shifted], dim=1),
        rows=torch.cat([t.rows + s for t, s in shifted]),
    )


def gate_target(target: Target, candidates: EdgeList, walk: GateWalk = "one_step") -> Tensor:
    """T_ref, or a power of it, restricted to candidate edges.

    Args:
        target: of the nodes.
        candidates: the candidate graph.
        walk: ``one_step``: T_ref.  ``two_steps``: T_ref^2, which also wants neighbours of
            neighbours.  ``mixed``: the mean of both.

    Returns:
        (E,) its entry ij on each candidate edge, 0 where it has none.  Rows are not renormalised
        here; a row without any true edge is all 0.
    """
    edges = target.edges
    reference = build_predicted_rw_operator(target.xy, edges, target.scale)
    n = edges.num_nodes
    known = edges.dst * n + edges.src  # ascending: the list is sorted by (dst, src)
    wanted = candidates.dst * n + candidates.src
    place = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    t = reference.log_t.exp()
    one = torch.where(known[place] == wanted, t[place], 0.0)
    if walk == "one_step":
        return one
    rows = csr_matrix((t.cpu().numpy(), edges.src.cpu().numpy(), edges.ptr.cpu().numpy()), (n, n))
    i, j = (index.cpu().numpy().copy() for index in (candidates.dst, candidates.src))
    two = torch.as_tensor(np.asarray((rows @ rows)[i, j]).ravel(), dtype=t.dtype, device=t.device)
    return two if walk == "two_steps" else (one + two) / 2
