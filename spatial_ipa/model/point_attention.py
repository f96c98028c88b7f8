r"""Distances between points as products of queries and keys.

The attention of invariant points (Jumper et al. 2021, supplement, algorithm 22) has a logit of
squared distances between P points p_i of the query and r_j of the key,

.. math:: -\frac{w}{2} \sum_p |p_{ip} - r_{jp}|^2
    = w \sum_p p_{ip} \cdot r_{jp} - \frac{w}{2} \sum_p |r_{jp}|^2 + \mathrm{const}_i

The constant of a row cancels in its softmax, and the rest is one product of longer vectors.  So the
fused kernel serves it as it is, and no array of E x H x P points is built.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def with_point_distances(
    q: Tensor, k: Tensor, points_q: Tensor, points_k: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product over the root of their width is the sum of both logits.

    Args:
        q, k: (N, H, c).
        points_q, points_k: (N, H, P, 2) positions in one frame.
        weight: (H,) w.

    Returns:
        Two (N, H, c + 2 P + 1): their products over sqrt(c + 2 P + 1) are ``q . k / sqrt(c)``
        and the logit of the module docstring, up to a constant of each row.
    """
    c, extra = q.shape[-1], 2 * points_q.shape[-2] + 1
    scale = float(c + extra) ** 0.5
    w = weight[:, None]
    reach = points_k.flatten(2).square().sum(2, keepdim=True)  # (N, H, 1)
    one = torch.ones_like(reach)
    longer_q = torch.cat([q * (scale / c**0.5), scale * w * points_q.flatten(2), scale * one], 2)
    return longer_q, torch.cat([k, points_k.flatten(2), -0.5 * w * reach], 2)


class PointOffsets(nn.Module):
    r"""Points of queries and keys as offsets from the position, without frames:

    .. math:: l_{ijh} \mathrel{+}= -\frac{\gamma_h}{2P} \sum_p
        |x_i + u_{ihp} - x_j - w_{jhp}|^2

    with u and w linear in the state and :math:`\gamma_h \ge 0`.  Offsets have the axes of the
    coordinates: moving all positions changes nothing, turning them does.

    Args:
        c_s: width of the states.
        heads: H.
        points: P, points per head.

    Shapes:
        normed (N, c_s), x (N, 2), q, k, v (N, H, c) -> three (N, H, c + 2 P + 1), v filled up with
        zeros.
    """

    def __init__(self, c_s: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.query = nn.Linear(c_s, 2 * heads * points, bias=False)
        self.key = nn.Linear(c_s, 2 * heads * points, bias=False)
        self.gamma = nn.Parameter(torch.zeros(heads))

    def forward(
        self, normed: Tensor, x: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = (len(x), self.heads, self.points, 2)
        here = x[:, None, None]
        weight = functional.softplus(self.gamma) / self.points
        longer = with_point_distances(
            q, k, here + self.query(normed).view(shape), here + self.key(normed).view(shape), weight
        )
        return *longer, functional.pad(v, (0, longer[0].shape[2] - v.shape[2]))
