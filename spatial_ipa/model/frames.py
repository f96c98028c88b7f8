r"""IPAFramesModel: invariant point attention in the plane, with a frame at every cell ("IPA-R").

Cell i has a frame T_i of a rotation R_i and its position x_i.  Queries, keys and values of a head
are scalars and P points in the frame of their cell (Jumper et al. 2021, supplement, algorithm 22,
with rotations of the plane and without values of pairs):

.. math::
    l_{ijh} &= q_i \cdot k_j / \sqrt{c} + \beta g_{ij} + b_{ijh}
        - \frac{\gamma_h}{2P} \sum_p |T_i u_{ihp} - T_j w_{jhp}|^2 \\
    o_{ih} &= \sum_j a_{ijh} v_{jh}, \qquad
        y_{ihp} = T_i^{-1} \sum_j a_{ijh} T_j z_{jhp}, \qquad a = \mathrm{softmax}_j(l) \\
    s_i &\leftarrow s_i + \mathrm{MLP}([\mathrm{LN}(s_i), o_i, y_i, |y_i|]) \\
    (\delta_i, t_i) &= \mathrm{Linear}(\mathrm{LN}(s_i)), \qquad
        x_i \leftarrow x_i + R_i t_i, \qquad R_i \leftarrow R_i R(\delta_i)

with b of :mod:`spatial_ipa.model.pair_bias`.  Moving and turning all frames moves and turns the
result.  A mirror image is another matter, as it is for the frames of proteins.  All frames start
unturned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.graph.edges import EdgeList
from common.sparse import neighbor_attention
from spatial_ipa.model.block import Attended
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.point_attention import with_point_distances
from spatial_ipa.model.recycle import Recycle
from spatial_ipa.model.states import StatesModel

POINTS = 4
"""P, points per head of queries, keys and values each."""

_FLOOR = 1e-8  # of the squared length of y: its root has no gradient at 0


def turned(direction: Tensor, vector: Tensor) -> Tensor:
    """Rotate vectors (..., 2) by unit directions (cos, sin) (..., 2), broadcast."""
    cos, sin = direction.unbind(-1)
    a, b = vector.unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1)


def turned_back(direction: Tensor, vector: Tensor) -> Tensor:
    """The inverse of :func:`turned`."""
    return turned(direction * direction.new_tensor([1.0, -1.0]), vector)


class FrameBlock(nn.Module):
    """One recycle of the module docstring.  A fresh block changes nothing.

    Args:
        c_s: width of the states.
        heads: H.
        c_head: c, width of a head.
        beta: weight of gate logits that come as (E,).

    Shapes:
        s (N, c_s), direction (N, 2), x (N, 2), logits (E, H) or (E,) -> the first three.
    """

    def __init__(self, c_s: int, heads: int, c_head: int, beta: float = 2.0) -> None:
        super().__init__()
        self.heads, self.beta = heads, beta
        width, points = heads * c_head, heads * POINTS
        self.norm = nn.LayerNorm(c_s)
        self.q = nn.Linear(c_s, width, bias=False)
        self.k = nn.Linear(c_s, width, bias=False)
        self.v = nn.Linear(c_s, width, bias=False)
        self.points = nn.Linear(c_s, 3 * 2 * points, bias=False)
        self.gamma = nn.Parameter(torch.zeros(heads))
        self.update = nn.Sequential(
            nn.Linear(c_s + width + 3 * points, 2 * c_s), nn.GELU(), nn.Linear(2 * c_s, c_s)
        )
        self.norm_moved = nn.LayerNorm(c_s)
        self.move = nn.Linear(c_s, 3)
        for layer in (self.update[2], self.move):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def attended(self, s: Tensor, direction: Tensor, x: Tensor, gate: Tensor | None) -> Attended:
        """What the attention reads: the points of v follow its scalars, in the common frame."""
        normed = self.norm(s)
        shape = (len(s), self.heads, -1)
        q, k, v = (layer(normed).view(shape) for layer in (self.q, self.k, self.v))
        local = self.points(normed).view(len(s), 3, self.heads, POINTS, 2)
        common = x[:, None, None, None] + turned(direction[:, None, None, None], local)
        of_q, of_k, of_v = common.unbind(1)
        weight = functional.softplus(self.gamma) / POINTS
        q, k = with_point_distances(q, k, of_q, of_k, weight)
        v = functional.pad(torch.cat([v, of_v.flatten(2)], 2), (0, 1))
        ready = gate is not None and gate.dim() == 2
        return Attended(normed, q, k, v, None if ready else gate, gate if ready else None)

    def forward(
        self, s: Tensor, direction: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed, q, k, v, gate, bias, _ = self.attended(s, direction, x, gate)
        nowhere = x.new_zeros(self.heads, 2, 2)
        out, _ = neighbor_attention(
            q, k, v, x, edges, nowhere, gate=gate, beta=self.beta, bias=bias
        )
        scalars, points = out[..., : -2 * POINTS - 1], out[..., -2 * POINTS - 1 : -1]
        points = points.reshape(len(s), self.heads, POINTS, 2)
        # A cell without edges gets points at its own position.
        attends = (edges.in_degree > 0)[:, None, None, None]
        offset = torch.where(attends, points - x[:, None, None], 0.0)
        local = turned_back(direction[:, None, None], offset)
        length = (local.square().sum(-1) + _FLOOR).sqrt()
        parts = [normed, scalars.flatten(1), local.flatten(1), length.flatten(1)]
        s = s + self.update(torch.cat(parts, dim=1))
        angle, step = self.move(self.norm_moved(s)).split([1, 2], dim=1)
        x = x + turned(direction, step)
        turn = torch.cat([angle.cos(), angle.sin()], dim=1)
        return s, turned(direction, turn), x


class IPAFramesModel(StatesModel):
    """The model of the module docstring, its block shared over the recycles.

    Args:
        settings: widths, depth and weights.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings, pair_bias=True)
        c = settings
        self.block = FrameBlock(c.c_s, c.heads, c.c_head, c.beta)

    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        """(N, c_s + 2) states, then directions of the frames."""
        unturned = x.new_tensor([1.0, 0.0]).expand(len(x), 2)
        return torch.cat([super().first_state(h, x, edges, gate), unturned], dim=1)

    def recycle(self, at: Recycle) -> tuple[Tensor, Tensor]:
        state, turn = at.carried[:, :-2], at.carried[:, -2:]
        s, direction, moved = self.block(state, turn, at.x, at.edges, at.gate)
        return torch.cat([s, direction], dim=1), moved

    def attended(self, at: Recycle) -> Attended:
        return self.block.attended(at.carried[:, :-2], at.carried[:, -2:], at.x, at.gate)
