"""Health of attention, gate and layout, as scalars of the log.

All are means over the nodes of a union, computed without gradients on validation minisets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import attention_weights, edge_softmax
from common.sparse.segments.blockwise import gather_dot
from spatial_ipa.geometry.gauge import graph_mean
from spatial_ipa.model.gate import shared_logit
from spatial_ipa.model.losses import collapse_diagnostics
from spatial_ipa.model.minisets import Miniset
from spatial_ipa.model.network import Layout
from spatial_ipa.model.pair import Network
from spatial_ipa.model.points import IPAPointsModel

TOP = 30


def rank_in_row(score: Tensor, edges: EdgeList) -> Tensor:
    """(E,) rank of each edge's score (E,) within its row, 0 the highest; ties by edge order."""
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(edges.dst[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - edges.ptr[edges.dst[order]]
    return rank


def top_precision_recall(
    score: Tensor, is_true: Tensor, true_degree: Tensor, edges: EdgeList
) -> tuple[Tensor, Tensor]:
    """Precision and recall of the 30 highest-scored edges of each row.

    Args:
        score: (E,) any score.
        is_true: (E,) bool, the edge joins true neighbours.
        true_degree: (N,) number of true neighbours, candidates or not.
        edges: rows.

    Returns:
        Scalars.  Precision divides by the edges picked, recall by min(30, true neighbours).
    """
    picked = rank_in_row(score, edges) < TOP
    hits = torch.zeros_like(true_degree).index_add(0, edges.dst, (picked & is_true).long())
    rows = edges.in_degree > 0
    precision = hits[rows] / edges.in_degree[rows].clamp(max=TOP)
    recall = hits[rows] / true_degree[rows].clamp(min=1, max=TOP)
    return precision.mean(), recall.mean()


def row_spearman(a: Tensor, b: Tensor, edges: EdgeList) -> Tensor:
    """Mean over rows with two edges or more of Spearman's rho between a and b (E,)."""
    n = edges.num_nodes
    centred = []
    for score in (a, b):
        rank = rank_in_row(score, edges).to(torch.float32)
        centred.append(rank - graph_mean(rank, edges.dst, n)[edges.dst])
    cov, var_a, var_b = (
        graph_mean(u * v, edges.dst, n)
        for u, v in (
            (centred[0], centred[1]),
            (centred[0], centred[0]),
            (centred[1], centred[1]),
        )
    )
    rows = edges.in_degree > 1
    return (cov[rows] / (var_a[rows] * var_b[rows]).sqrt()).mean()


@torch.no_grad()
def health_checks(
    model: Network, batch: Miniset, layout: Layout, edges: EdgeList, gate: Tensor | None
) -> dict[str, Tensor]:
    """Scalars by name; those of a recycle end in its number."""
    known = batch.target.edges
    n = known.num_nodes
    score = None if gate is None else shared_logit(gate)
    is_true = torch.isin(edges.dst * n + edges.src, known.dst * n + known.src)
    values: dict[str, Tensor] = {}
    for r, x in enumerate(layout.trajectory[:-1]):
        a, logit, qk = _attention(model, batch, layout, r, edges, gate)
        mean_a = a.mean(1)
        values[f"attention_recall30/{r}"] = top_precision_recall(
            mean_a, is_true, known.in_degree, edges
        )[1]
        centred = logit - graph_mean(logit, edges.dst, n)[edges.dst]
        values[f"logit_std/{r}"] = centred.square().mean().sqrt()
        entropy = -(a * a.clamp(min=1e-30).log()).sum(1) / a.shape[1]
        row = entropy.new_zeros(n).index_add(0, edges.dst, entropy)
        values[f"attention_entropy/{r}"] = row[edges.in_degree > 0].mean()
        if qk is not None:
            values[f"attention_vs_qk/{r}"] = row_spearman(mean_a, qk.mean(1), edges)
        if score is not None:
            values[f"attention_vs_gate/{r}"] = row_spearman(mean_a, score, edges)
        step = layout.trajectory[r + 1] - x
        values[f"step_size/{r}"] = step.square().sum(1).mean().sqrt()
    if score is not None:
        precision, recall = top_precision_recall(score, is_true, known.in_degree, edges)
        values["gate_precision30"], values["gate_recall30"] = precision, recall
    ratio, median = collapse_diagnostics(
        layout.x, batch.target.graph, batch.num_graphs, batch.target.random_pairs
    )
    values["eigenvalue_ratio"], values["median_distance"] = ratio.mean(), median.mean()
    return values


def _attention(
    model: Network, batch: Miniset, layout: Layout, r: int, edges: EdgeList, gate: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights, logits and, of a model with states, q . k / sqrt(c) of a recycle, all (E, H)."""
    x = layout.trajectory[r]
    if isinstance(model, IPAPointsModel):
        assert layout.evidence is not None, "of a model without states"
        logit = model.block.logits(layout.evidence, x, edges)
        return edge_softmax(logit, edges), logit, None
    own = model.edge_logits(batch.h, edges, gate)
    _, q, k, _, single, bias = model.attended(
        r, layout.states[r], x, edges, own, batch.target.graph, batch.num_graphs
    )
    beta = model.settings.beta
    a = attention_weights(q, k, edges, gate=single, beta=beta, bias=bias)
    qk = gather_dot(q, k, edges) / q.shape[-1] ** 0.5
    logit = qk if single is None else qk + beta * single[:, None]
    return a, logit if bias is None else logit + bias, qk if model.settings.qk else None
