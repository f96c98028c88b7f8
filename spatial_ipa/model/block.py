"""One recycle of the model: gated neighbour attention that updates states and coordinates."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.sparse import distance_logits, neighbor_attention
from spatial_ipa.geometry.gauge import graph_mean
from spatial_ipa.geometry.walks import squared_distance
from spatial_ipa.model.point_attention import PointOffsets
from spatial_ipa.model.recycle import Recycle

DistanceTerm = Literal["none", "rbf", "monotone"]
Product = Literal["scaled", "cosine", "none"]

_RBF_CENTRES = 16
_RBF_RANGE = 2.0
_BIAS_LIMIT = 5.0


class Attended(NamedTuple):
    """What the attention of a block reads, N nodes, E edges and H heads; c' is c or wider.

    Attributes:
        normed: (N, c_s) LN(s).
        q, k, v: (N, H, c').
        gate: (E,) gate logits, to be weighed by beta, or None.
        bias: (E, H) what is added to the logits beside, or None.
        distance: (E, H) the distance term, a part of the bias, or None.
    """

    normed: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    bias: Tensor | None
    distance: Tensor | None = None


class IPALiteBlock(nn.Module):
    r"""Invariant-point attention over edges only.  Per head h

    .. math::
        a_{ij} &= \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{c} + \beta g_{ij} + b_{ij}) \\
        \Delta x_i &= \sum_h \sum_j a_{ij} W_x^{(h)} (x_j - x_i) \\
        s_i &\leftarrow s_i + \mathrm{MLP}([\mathrm{LN}(s_i), \mathrm{concat}_h \sum_j a_{ij} v_j])

    q, k and v are linear in LN(s) without bias.  W_x and the last layer start at zero, so a fresh
    block changes nothing.  A node without edges keeps its position.

    Args:
        c_s: width of the states.
        heads: H.
        c_head: c, width of a head.
        beta: weight of the gate logits.
        distance_term: ``none`` (default): b = 0.  ``rbf``: per-head weights on 16 Gaussians of
            distance over the median edge distance of the graph, clipped to +-5.  ``monotone``:
            b = -gamma_h d^2 with gamma_h >= 0; only sensible on the true spatial graph.
        product: ``scaled`` (default): q . k / sqrt(c).  ``cosine``: tau q . k / (|q| |k|) with one
            learned tau, begun at sqrt(c) (query-key normalisation, Henry et al. 2020).  ``none``:
            no q and k; attention is what gate and biases say, and states move nothing but by
            ``points``.
        points: points per head that a query and a key hold as offsets from their own positions
            (:class:`~spatial_ipa.model.point_attention.PointOffsets`); 0 for none.

    Shapes:
        a :class:`~spatial_ipa.model.recycle.Recycle` that carries s (N, c_s)
        -> s (N, c_s), x (N, 2).
    """

    def __init__(
        self,
        c_s: int,
        heads: int,
        c_head: int,
        beta: float = 2.0,
        distance_term: DistanceTerm = "none",
        product: Product = "scaled",
        points: int = 0,
    ) -> None:
        super().__init__()
        if distance_term not in ("none", "rbf", "monotone"):
            raise UserError(f"distance_term must be none, rbf or monotone, got {distance_term!r}")
        self.heads, self.beta, self.distance_term = heads, beta, distance_term
        self.product: Product = product
        width = heads * c_head
        self.norm = nn.LayerNorm(c_s)
        if product != "none":
            self.q = nn.Linear(c_s, width, bias=False)
            self.k = nn.Linear(c_s, width, bias=False)
        self.v = nn.Linear(c_s, width, bias=False)
        self.w_x = nn.Parameter(torch.zeros(heads, 2, 2))
        self.update = nn.Sequential(
            nn.Linear(c_s + width, 2 * c_s), nn.GELU(), nn.Linear(2 * c_s, c_s)
        )
        nn.init.zeros_(self.update[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.update[2].bias)  # type: ignore[arg-type]
        if distance_term == "monotone":
            self.gamma = nn.Parameter(torch.zeros(heads))
        elif distance_term == "rbf":
            self.rbf_weight = nn.Parameter(torch.zeros(heads, _RBF_CENTRES))
        if product == "cosine":
            self.tau = nn.Parameter(torch.tensor(c_head**0.5))
        self.offsets = PointOffsets(c_s, heads, points) if points else None

    def queries_keys_values(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """LN(s) (N, c_s) and q, k, v (N, H, c); q . k / sqrt(c) is the logit of the product."""
        normed = self.norm(s)
        shape = (s.shape[0], self.heads, -1)
        if self.product == "none":
            v = self.v(normed).view(shape)
            return normed, torch.zeros_like(v), torch.zeros_like(v), v
        q, k = self.q(normed).view(shape), self.k(normed).view(shape)
        v = self.v(normed).view(shape)
        if self.product == "cosine":
            scale = self.tau * v.shape[-1] ** 0.5
            q, k = scale * functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        return normed, q, k, v

    def forward(self, at: Recycle) -> tuple[Tensor, Tensor]:
        normed, q, k, v, gate, bias, _ = self.attended(at)
        out, dx = neighbor_attention(
            q, k, v, at.x, at.edges, self.w_x, gate=gate, beta=self.beta, bias=bias
        )
        if self.offsets is not None:
            out = out[..., : self.v.out_features // self.heads]
        s = at.carried + self.update(torch.cat([normed, out.flatten(1)], dim=1))
        return s, at.x + dx

    def attended(self, at: Recycle) -> Attended:
        """What the attention reads."""
        gate = at.gate
        normed, q, k, v = self.queries_keys_values(at.carried)
        if self.offsets is not None:
            q, k, v = self.offsets(normed, at.x, q, k, v)
        bias = distance = self.distance_bias(at)
        if gate is not None and gate.dim() == 2:
            bias = gate if bias is None else gate + bias
            gate = None
        return Attended(normed, q, k, v, gate, bias, distance)

    def distance_bias(self, at: Recycle) -> Tensor | None:
        """(E, H) the optional geometric logit; None when off."""
        if self.distance_term == "none":
            return None
        if self.distance_term == "monotone":
            return distance_logits(at.x, at.edges, functional.softplus(self.gamma))
        dst = at.edges.dst
        d2 = squared_distance(at.x, dst, at.edges.src)
        # The mean over edges of a union cannot serve: each graph has its own median.
        distance = (d2 + 1e-12).sqrt()
        median = _graph_median(distance.detach(), at.graph[dst], at.num_graphs)
        relative = distance / median[at.graph[dst]].clamp(min=1e-6)
        centres = torch.linspace(0, _RBF_RANGE, _RBF_CENTRES, device=d2.device, dtype=d2.dtype)
        width = _RBF_RANGE / (_RBF_CENTRES - 1)
        basis = (-0.5 * ((relative[:, None] - centres) / width).square()).exp()  # (E, 16)
        return (basis @ self.rbf_weight.T).clamp(-_BIAS_LIMIT, _BIAS_LIMIT)


def _graph_median(value: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
    """(B,) lower median of ``value`` (M,) in each graph; ``graph`` (M,) is non-decreasing."""
    order = torch.argsort(value)
    order = order[torch.argsort(graph[order], stable=True)]
    count = torch.bincount(graph, minlength=num_graphs)
    middle = count.cumsum(0) - count + (count - 1).clamp(min=0) // 2
    if value.numel() == 0:
        return graph_mean(value, graph, num_graphs)
    return value[order[middle.clamp(max=value.numel() - 1)]]
