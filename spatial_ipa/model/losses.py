"""The loss terms.  Each returns (B,): one value per graph of the union.

Averaging those over graphs gives every miniset the same weight, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import edge_log_softmax
from spatial_ipa.geometry.walks import (
    WalkOperator,
    at_least_float32,
    build_predicted_rw_operator,
    gauge_fix,
    graph_mean,
    squared_distance,
)
from spatial_ipa.model.targets import Target

# Floor inside the logarithm of walk probabilities: far pairs underflow to 0 in float32.
_PROBABILITY_FLOOR = 1e-12
# Squared-distance floor of the log-stress, in units of the RMS radius.
_DISTANCE_FLOOR = 1e-12


def loss_rw_kl(predicted: WalkOperator, reference: WalkOperator, target: Target) -> Tensor:
    """sum_s 0.5^(s-1) mean_rows KL(T_ref^s || T_pred^s).

    Only ``target.rows`` are walked.  As every row is drawn with the same probability the mean over
    drawn rows is an unbiased estimate of the mean over all, and equal to it when all are drawn.

    Returns:
        (B,) nats.
    """
    column = target.row_columns()
    width = int(column.max()) + 1
    start = predicted.log_t.new_zeros(predicted.edges.num_nodes, width)
    start[target.rows, column] = 1.0
    steps = int(target.steps.max())
    with torch.no_grad():
        reference_rows = reference.walk(start, steps)
    row_count = torch.bincount(target.graph[target.rows], minlength=target.num_graphs)
    loss = start.new_zeros(target.num_graphs)
    for s, (p_ref, p) in enumerate(zip(reference_rows, predicted.walk(start, steps), strict=True)):
        # Columns past a graph's own rows are 0 in both and add 0.
        terms = p_ref * ((p_ref + _PROBABILITY_FLOOR).log() - (p + _PROBABILITY_FLOOR).log())
        total = start.new_zeros(target.num_graphs).index_add(0, target.graph, terms.sum(1))
        loss = loss + 0.5**s * (target.steps > s) * total / row_count
    return loss


def loss_stress_log(x: Tensor, target: Target) -> Tensor:
    """mean (log d_pred - log d_target - alpha)^2 over the multiscale pairs; alpha = mean log-ratio.

    Returns:
        (B,).
    """
    i, j = target.pairs
    graph = target.graph[i]
    log_pred = 0.5 * (squared_distance(x, i, j) + _DISTANCE_FLOOR).log()
    log_true = 0.5 * (squared_distance(target.xy, i, j) + _DISTANCE_FLOOR).log()
    ratio = log_pred - log_true
    alpha = graph_mean(ratio, graph, target.num_graphs)
    residual = ratio - alpha.index_select(0, graph)
    return graph_mean(residual.square(), graph, target.num_graphs)


def loss_repulsion(x: Tensor, target: Target, tau: float = 0.01) -> Tensor:
    """(B,) mean over the random pairs of exp(-|x_i - x_j|^2 / tau)."""
    i, j = target.random_pairs
    value = (-squared_distance(x, i, j) / tau).exp()
    return graph_mean(value, target.graph[i], target.num_graphs)


def loss_procrustes(x: Tensor, target: Target) -> Tensor:
    """(B,) squared Procrustes RMSE of gauge-fixed x (N, 2) and target: similarity, reflection too.

    With C = mean x_i y_i^T the least mean |y - s R x|^2 over scales s and orthogonal R is
    1 - (c_1 + c_2)^2, c the singular values of C (Gower & Dijksterhuis 2004, ch. 4).  In the plane
    (c_1 + c_2)^2 = |C|^2 + 2 |det C|, so no decomposition is needed.
    """
    products = x[:, :, None] * target.xy.to(x)[:, None, :]  # (N, 2, 2)
    c = graph_mean(products, target.graph, target.num_graphs)
    det = c[:, 0, 0] * c[:, 1, 1] - c[:, 0, 1] * c[:, 1, 0]
    return 1 - c.square().sum((1, 2)) - 2 * det.abs()


def loss_entropy_reg(predicted: WalkOperator, target: Target) -> Tensor:
    """(B,) negative mean row entropy of T_pred."""
    return -graph_mean(predicted.row_entropy(), target.graph, target.num_graphs)


def loss_gate(logit: Tensor, candidates: EdgeList, wanted: Tensor, target: Target) -> Tensor:
    """KL(T_ref on candidate edges, renormalised || row-softmax of the gate logits).

    Args:
        logit: (E,) gate logits.
        candidates: the candidate graph.
        wanted: (E,) T_ref on those edges, from :func:`spatial_ipa.model.targets.gate_target`.

    Returns:
        (B,) mean over the rows that have a true neighbour among their candidates; 0 if none has.
    """
    row_sum = wanted.new_zeros(candidates.num_nodes).index_add(0, candidates.dst, wanted)
    has_row = row_sum > 0
    p = wanted / torch.where(has_row, row_sum, 1.0)[candidates.dst]
    log_q = edge_log_softmax(at_least_float32(logit), candidates)
    log_p = torch.where(p > 0, p, 1.0).log()
    per_row = p.new_zeros(candidates.num_nodes).index_add(0, candidates.dst, p * (log_p - log_q))
    total = p.new_zeros(target.num_graphs).index_add(0, target.graph, per_row)
    rows = p.new_zeros(target.num_graphs).index_add(0, target.graph, has_row.to(p.dtype))
    return total / rows.clamp(min=1)


@dataclass(frozen=True)
class GeometryTerms:
    """Per-graph (B,) values of the geometric losses of one layout."""

    rw: Tensor
    stress: Tensor
    repulsion: Tensor
    entropy: Tensor
    procrustes: Tensor

    @property
    def e_geo(self) -> Tensor:
        """(B,) the metric E_geo = L_RW + 0.1 L_stress, whatever the training weights are."""
        return self.rw + 0.1 * self.stress

    def energy(self, w_rw: float) -> Tensor:
        """(B,) the training energy without the gate and Procrustes terms."""
        return w_rw * self.rw + 0.1 * self.stress + 0.01 * self.repulsion + 0.01 * self.entropy


def geometry_terms(x: Tensor, target: Target, *, with_rw: bool = True) -> GeometryTerms:
    """Score a layout (N, 2) against its target; it is gauge-fixed here.

    With ``with_rw`` false the walks are skipped and ``rw`` is 0, as in the stress-only epoch.
    Everything is at least float32, also under autocast: walk probabilities span many decades.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = gauge_fix(x, target.graph, target.num_graphs)
        predicted = build_predicted_rw_operator(x, target.edges, target.scale)
        if with_rw:
            with torch.no_grad():
                reference = build_predicted_rw_operator(target.xy, target.edges, target.scale)
            rw = loss_rw_kl(predicted, reference, target)
        else:
            rw = x.new_zeros(target.num_graphs)
        return GeometryTerms(
            rw=rw,
            stress=loss_stress_log(x, target),
            repulsion=loss_repulsion(x, target),
            entropy=loss_entropy_reg(predicted, target),
            procrustes=loss_procrustes(x, target),
        )


def collapse_diagnostics(
    x: Tensor, graph: Tensor, num_graphs: int, random_pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """Signs of a collapsed layout.

    Args:
        x: (N, 2) coordinates, gauge-fixed.
        graph: (N,) graph of each node.
        num_graphs: B.
        random_pairs: (2, 256 B), the same number in every graph, in order of graphs.

    Returns:
        ratio: (B,) eigenvalue ratio of the covariance, smaller over larger; a line below 0.01.
        median: (B,) median distance of the pairs; a point below 0.01, about 1.2 when healthy.
    """
    x = x - graph_mean(x, graph, num_graphs)[graph]
    c = graph_mean(
        torch.stack([x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1), graph, num_graphs
    )
    half_trace = (c[:, 0] + c[:, 1]) / 2
    root = ((c[:, 0] - c[:, 1]).square() / 4 + c[:, 2].square()).sqrt()
    ratio = (half_trace - root).clamp(min=0) / (half_trace + root).clamp(min=1e-12)
    i, j = random_pairs
    median = (x[i] - x[j]).norm(dim=1).view(num_graphs, -1).median(dim=1).values
    return ratio, median
