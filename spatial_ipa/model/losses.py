"""The loss terms.  Each returns (B,): one value per graph of the union.

Averaging those over graphs gives every miniset the same weight, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import edge_log_softmax
from spatial_ipa.geometry.gauge import at_least_float32, gauge_fix, graph_mean
from spatial_ipa.geometry.walks import WalkOperator, build_predicted_rw_operator, squared_distance
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
        logit: (E,) gate logits, or (E, H): then the mean over heads of the KL of each.
        candidates: the candidate graph.
        wanted: (E,) T_ref on those edges, from :func:`spatial_ipa.model.targets.gate_target`.

    Returns:
        (B,) mean over the rows that have a true neighbour among their candidates; 0 if none has.
    """
    row_sum = wanted.new_zeros(candidates.num_nodes).index_add(0, candidates.dst, wanted)
    has_row = row_sum > 0
    p = wanted / torch.where(has_row, row_sum, 1.0)[candidates.dst]
    log_q = edge_log_softmax(at_least_float32(logit), candidates)
    if log_q.dim() == 2:
        log_q = log_q.mean(1)
    log_p = torch.where(p > 0, p, 1.0).log()
    per_row = p.new_zeros(candidates.num_nodes).index_add(0, candidates.dst, p * (log_p - log_q))
    total = p.new_zeros(target.num_graphs).index_add(0, target.graph, per_row)
    rows = p.new_zeros(target.num_graphs).index_add(0, target.graph, has_row.to(p.dtype))
    return total / rows.clamp(min=1)


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; a weight of 0 switches a term off.

    Attributes:
        rw: final weight of the random walks; it ramps up to this.
        stress: of the distances.
        repulsion: of the repulsion of random pairs.
        entropy: of the (negative) entropy of the walks.
        gate: of the gate's KL.
        procrustes: of the squared Procrustes RMSE.  Off as published; 0.1 lowers the RMSE of some
            tissues, raises E_geo and harms others (``benchmarks/reports/spatial_experiments.md``).

    Raises:
        ValueError: on a weight that is negative or not a number.
    """

    rw: float = 0.3
    stress: float = 0.1
    repulsion: float = 0.01
    entropy: float = 0.01
    gate: float = 0.05
    procrustes: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise UserError(f"weights.{name} must be finite and not negative, got {value}")


E_GEO = LossWeights(rw=1.0, stress=0.1, repulsion=0.01, entropy=0.01, gate=0.0, procrustes=0.0)
"""Weights of the energy that the oracle minimises, and of the metric E_geo (walks and stress);
written out, so that no default of a training enters."""


@dataclass(frozen=True)
class ScoredLayout:
    """What a term may look at.

    Attributes:
        x: (N, 2) gauge-fixed coordinates: centred, of RMS radius 1.
        walks: random walks on them.
        target: what they are scored against.
    """

    x: Tensor
    walks: WalkOperator
    target: Target


@dataclass(frozen=True)
class Term:
    """A loss term of a layout.

    Attributes:
        function: gives (B,).
        energy: whether it belongs to the energy, which is also minimised without a model
            (:mod:`spatial_ipa.evaluation.oracle`); else it only enters the training loss.
    """

    function: Callable[[ScoredLayout], Tensor]
    energy: bool = True


def _rw(layout: ScoredLayout) -> Tensor:
    target = layout.target
    with torch.no_grad():
        reference = build_predicted_rw_operator(target.xy, target.edges, target.scale)
    return loss_rw_kl(layout.walks, reference, target)


TERMS: dict[str, Term] = {
    "rw": Term(_rw),
    "stress": Term(lambda layout: loss_stress_log(layout.x, layout.target)),
    "repulsion": Term(lambda layout: loss_repulsion(layout.x, layout.target)),
    "entropy": Term(lambda layout: loss_entropy_reg(layout.walks, layout.target)),
    "procrustes": Term(lambda layout: loss_procrustes(layout.x, layout.target), energy=False),
}
"""By name, in the order in which they are added.  A further term is a function with its row here,
a field of :class:`LossWeights`, and a test."""


@dataclass(frozen=True)
class GeometryTerms:
    """Per-graph (B,) values of the terms of one layout, by name."""

    values: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    @property
    def e_geo(self) -> Tensor:
        """(B,) the metric E_geo = L_RW + 0.1 L_stress, whatever the training weights are."""
        return self["rw"] + E_GEO.stress * self["stress"]

    def energy(self, weights: LossWeights) -> Tensor:
        """(B,) weighted sum of the terms that belong to the energy."""
        energy = torch.zeros_like(self["stress"])
        for name, term in TERMS.items():
            if term.energy and (weight := getattr(weights, name)):
                energy = energy + weight * self[name]
        return energy

    def loss(self, weights: LossWeights) -> Tensor:
        """Scalar: the mean energy and the means of the other terms, all weighted."""
        loss = self.energy(weights).mean()
        for name, term in TERMS.items():
            if not term.energy and (weight := getattr(weights, name)):
                loss = loss + weight * self[name].mean()
        return loss


def geometry_terms(x: Tensor, target: Target, *, with_rw: bool = True) -> GeometryTerms:
    """Score a layout (N, 2) against its target; it is gauge-fixed here.

    With ``with_rw`` false the walks are skipped and ``rw`` is 0, as in the stress-only epoch.
    Everything is at least float32, also under autocast: walk probabilities span many decades.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = gauge_fix(x, target.graph, target.num_graphs)
        layout = ScoredLayout(x, build_predicted_rw_operator(x, target.edges, target.scale), target)
        nothing = x.new_zeros(target.num_graphs)
        return GeometryTerms(
            {
                name: nothing if name == "rw" and not with_rw else term.function(layout)
                for name, term in TERMS.items()
            }
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
    # Not median(dim=1), which CUDA refuses where deterministic algorithms are asked for.
    distance = (x[i] - x[j]).norm(dim=1).view(num_graphs, -1).sort(dim=1).values
    return ratio, distance[:, (distance.shape[1] - 1) // 2]
