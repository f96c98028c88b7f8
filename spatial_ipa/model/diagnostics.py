"""Health of attention, gate and layout, as scalars of the log and numbers of the report.

Computed without gradients on minisets or whole slides, along the edges.  Those that are there per
recycle are means over the nodes of the union.  What was added to them has a value per graph, which
does not depend on what else is in the union, and is averaged over graphs:

* of the last recycle, by head h: ``head_precision30/h`` and ``head_recall30/h``, how many of the 30
  edges with the largest weight a_ijh join true neighbours; ``head_vs_true_distance/h``, Spearman's
  rho of a_ijh and minus the true distance of i and j, in the mean over rows;
* ``attention_vs_distance/r``: Spearman's rho of attention and the distance term of the logits;
* ``nearest_...``: distances to the nearest cell, see :func:`nearest_checks`;
* ``reference_...``: the health checks of the reference design in its own definitions
  (:func:`reference_checks`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.knn import knn_index
from spatial_ipa.geometry.gauge import graph_mean
from spatial_ipa.geometry.walks import squared_distance
from spatial_ipa.model.edge_scores import (
    Ranks,
    joins_true,
    mean_of_rows,
    ranks,
    row_ranks,
    row_spearman,
    spearman,
    top_hits,
    top_precision_recall,
)
from spatial_ipa.model.gate import shared_logit
from spatial_ipa.model.losses import collapse_diagnostics
from spatial_ipa.model.minisets import Miniset
from spatial_ipa.model.network import Attention, Layout
from spatial_ipa.model.pair import Network
from spatial_ipa.model.targets import Target

_LOW = 0.05  # share of cells below the quantile of nearest distances


@torch.no_grad()
def health_checks(
    model: Network, batch: Miniset, layout: Layout, edges: EdgeList, gate: Tensor | None
) -> dict[str, Tensor]:
    """Scalars by name; those of a recycle end in its number, those of a head in that of the head.

    A check is NaN where it is defined in no graph.
    """
    target, count = batch.target, batch.num_graphs
    rows = TrueRows(target, edges)
    score = None if gate is None else shared_logit(gate)
    gate_ranks = None if score is None else row_ranks(score, edges)
    gate_pooled = None if score is None else rows.pooled(score)
    values: dict[str, Tensor] = {}
    by_graph: dict[str, Tensor] = {}
    for r in range(model.recycles):
        seen = model.attention(layout, edges, gate, target.graph, count, r)
        a = seen.weights
        mean_a = row_ranks(a.mean(1), edges)
        values[f"attention_recall30/{r}"] = top_precision_recall(
            mean_a, rows.is_true, rows.true_degree, edges
        )[1].nanmean()
        centred = seen.logits - graph_mean(seen.logits, edges.dst, edges.num_nodes)[edges.dst]
        values[f"logit_std/{r}"] = centred.square().mean().sqrt()
        entropy = -(a * a.clamp(min=1e-30).log()).sum(1) / a.shape[1]
        row = entropy.new_zeros(edges.num_nodes).index_add(0, edges.dst, entropy)
        values[f"attention_entropy/{r}"] = row[edges.in_degree > 0].mean()
        if seen.qk is not None:
            qk = row_ranks(seen.qk.mean(1), edges)
            values[f"attention_vs_qk/{r}"] = row_spearman(mean_a, qk, edges).nanmean()
        if gate_ranks is not None:
            values[f"attention_vs_gate/{r}"] = row_spearman(mean_a, gate_ranks, edges).nanmean()
        if seen.distance is not None:
            distance = row_ranks(seen.distance.mean(1), edges)
            rho = row_spearman(mean_a, distance, edges)
            by_graph[f"attention_vs_distance/{r}"] = mean_of_rows(rho, target.graph, count)
        step = layout.trajectory[r + 1] - layout.trajectory[r]
        values[f"step_size/{r}"] = step.square().sum(1).mean().sqrt()
        reference = reference_checks(seen, mean_a, rows, gate_pooled)
        by_graph |= {f"{name}/{r}": value for name, value in reference.items()}
    by_graph |= head_checks(seen, rows)
    if gate_ranks is not None:
        precision, recall = top_precision_recall(gate_ranks, rows.is_true, rows.true_degree, edges)
        values["gate_precision30"], values["gate_recall30"] = precision.nanmean(), recall.nanmean()
        by_graph["reference_gate_recall30"] = rows.share_found(gate_ranks)
    ratio, median = collapse_diagnostics(layout.x, target.graph, count, target.random_pairs)
    values["eigenvalue_ratio"], values["median_distance"] = ratio.mean(), median.mean()
    by_graph |= nearest_checks(layout.x, target)
    return values | {name: value.nanmean() for name, value in by_graph.items()}


class TrueRows:
    """The rows of a graph that is attended over, beside the truth.

    Args:
        target: what is true, of one graph or of a union.
        edges: the graph; :attr:`is_true` (E,) bool says which of them join true neighbours, that is
            are edges of the symmetrised spatial graph.
    """

    def __init__(self, target: Target, edges: EdgeList) -> None:
        self.target, self.edges = target, edges
        self.graph_of_edge = target.graph[edges.dst]
        self.is_true = joins_true(edges, target.edges)
        self.true_degree = target.edges.in_degree

    def over_graphs(self, value: Tensor) -> Tensor:
        """(B,) mean over rows of ``value`` (N,)."""
        return mean_of_rows(value, self.target.graph, self.target.num_graphs)

    def pooled(self, score: Tensor) -> Ranks:
        """Ranks of scores (E,) among all edges of a graph."""
        return ranks(score, self.graph_of_edge, self.target.num_graphs)

    def share_found(self, rank: Ranks) -> Tensor:
        """(B,) share of all true neighbours among the 30 highest-scored edges, mean over rows."""
        found = top_hits(rank, self.is_true, self.edges) / self.true_degree.clamp(min=1)
        return self.over_graphs(found.masked_fill(self.edges.in_degree == 0, torch.nan))


def head_checks(seen: Attention, rows: TrueRows) -> dict[str, Tensor]:
    """What each head attends to: (B,) by name, as the module says."""
    target, edges = rows.target, rows.edges
    near = row_ranks(-squared_distance(target.xy, edges.dst, edges.src), edges)
    values = {}
    for h, weight in enumerate(seen.weights.unbind(1)):
        rank = row_ranks(weight, edges)
        found = top_precision_recall(rank, rows.is_true, rows.true_degree, edges)
        values[f"head_precision30/{h}"], values[f"head_recall30/{h}"] = map(rows.over_graphs, found)
        rho = row_spearman(rank, near, edges)
        values[f"head_vs_true_distance/{h}"] = rows.over_graphs(rho)
    return values


def reference_checks(
    seen: Attention, mean_a: Ranks, rows: TrueRows, gate: Ranks | None
) -> dict[str, Tensor]:
    """(B,) the health checks of one recycle that the reference design defines otherwise, by name.

    * ``reference_attention_recall30``: true neighbours among the 30 most attended, over all true
      neighbours, also where there are more than 30;
    * ``reference_logit_std``: standard deviation of all logits of a graph.  Ours is that within
      rows, as a softmax does not see what is added to a row;
    * ``reference_attention_vs_qk``, ``reference_attention_vs_gate``: one Spearman's rho over all
      edges of a graph.  Ours is the mean over rows.

    Args:
        seen: the attention of the recycle.
        mean_a: row ranks of its mean over heads.
        rows: beside the truth.
        gate: pooled ranks of the gate logits, or None.
    """
    graph, count = rows.graph_of_edge, rows.target.num_graphs
    mean = graph_mean(seen.logits.mean(1), graph, count)
    square = graph_mean((seen.logits - mean[graph, None]).square().mean(1), graph, count)
    values = {
        "reference_attention_recall30": rows.share_found(mean_a),
        "reference_logit_std": square.sqrt(),
    }
    attention = rows.pooled(seen.weights.mean(1)).shared
    qk = None if seen.qk is None else rows.pooled(seen.qk.mean(1))
    for name, other in (("qk", qk), ("gate", gate)):
        if other is not None:
            rho = spearman(attention, other.shared, graph, count)
            values[f"reference_attention_vs_{name}"] = rho
    return values


def nearest_checks(x: Tensor, target: Target) -> dict[str, Tensor]:
    """(B,) how evenly each layout is spaced, from the distance of each cell to its nearest.

    ``nearest_cv`` is their standard deviation over their mean, ``nearest_q05`` their lowest
    twentieth in RMS radii (:mod:`spatial_ipa.geometry.distance_metrics`); ``..._ratio`` is the
    value over that of the true layout, 1 when healthy; NaN where that is 0.

    Args:
        x: (N, 2) gauge-fixed layouts.
        target: what is true.
    """
    own, true = (_nearest(each.float(), target.graph, target.num_graphs) for each in (x, target.xy))
    values = {"nearest_cv": own[0], "nearest_q05": own[1]}
    for (name, value), reference in zip(list(values.items()), true, strict=True):
        values[f"{name}_ratio"] = torch.where(reference > 0, value / reference, torch.nan)
    return values


def _nearest(x: Tensor, graph: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
    """(B,) coefficient of variation and lowest twentieth of nearest distances."""
    count = torch.bincount(graph, minlength=num_graphs)
    first = count.cumsum(0) - count
    index, _ = knn_index(x, 1, torch.cat([first, count.sum()[None]]))
    distance = (x - x[index[:, 0]]).norm(dim=1)
    mean = graph_mean(distance, graph, num_graphs)
    variance = graph_mean((distance - mean[graph]).square(), graph, num_graphs)
    order = torch.argsort(distance)
    distance = distance[order[torch.argsort(graph[order], stable=True)]]
    place = _LOW * (count - 1)  # as NumPy interpolates
    low = place.floor().long()
    high = torch.minimum(low + 1, count - 1)
    quantile = torch.lerp(distance[first + low], distance[first + high], place - low)
    return variance.sqrt() / mean, quantile
