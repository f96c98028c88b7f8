"""One recycle of the model: gated neighbour attention that updates states and coordinates."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import neighbor_attention
from spatial_ipa.geometry.gauge import graph_mean
from spatial_ipa.geometry.walks import squared_distance

DistanceTerm = Literal["none", "rbf", "monotone"]

_RBF_CENTRES = 16
_RBF_RANGE = 2.0
_BIAS_LIMIT = 5.0


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

    Shapes:
        s (N, c_s), x (N, 2), gate (E,) -> s (N, c_s), x (N, 2).
    """

    def __init__(
        self,
        c_s: int,
        heads: int,
        c_head: int,
        beta: float = 2.0,
        distance_term: DistanceTerm = "none",
    ) -> None:
        super().__init__()
        if distance_term not in ("none", "rbf", "monotone"):
            raise UserError(f"distance_term must be none, rbf or monotone, got {distance_term!r}")
        self.heads, self.beta, self.distance_term = heads, beta, distance_term
        width = heads * c_head
        self.norm = nn.LayerNorm(c_s)
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

    def queries_keys_values(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """LN(s) (N, c_s) and q, k, v (N, H, c)."""
        normed = self.norm(s)
        shape = (s.shape[0], self.heads, -1)
        return (
            normed,
            self.q(normed).view(shape),
            self.k(normed).view(shape),
            self.v(normed).view(shape),
        )

    def forward(
        self,
        s: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> tuple[Tensor, Tensor]:
        normed, q, k, v = self.queries_keys_values(s)
        bias = self.distance_bias(x, edges, graph, num_graphs)
        out, dx = neighbor_attention(
            q, k, v, x, edges, self.w_x, gate=gate, beta=self.beta, bias=bias
        )
        s = s + self.update(torch.cat([normed, out.flatten(1)], dim=1))
        return s, x + dx

    def distance_bias(
        self, x: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int
    ) -> Tensor | None:
        """(E, H) the optional geometric logit; None when off."""
        if self.distance_term == "none":
            return None
        d2 = squared_distance(x, edges.dst, edges.src)
        if self.distance_term == "monotone":
            return -functional.softplus(self.gamma) * d2[:, None]
        # The mean over edges of a union cannot serve: each graph has its own median.
        distance = (d2 + 1e-12).sqrt()
        median = _graph_median(distance.detach(), graph[edges.dst], num_graphs)
        relative = distance / median[graph[edges.dst]].clamp(min=1e-6)
        centres = torch.linspace(0, _RBF_RANGE, _RBF_CENTRES, device=x.device, dtype=x.dtype)
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
