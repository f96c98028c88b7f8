r"""IPAUnsharedModel: a block of its own for each recycle, normalised products, scheduled geometry.

In recycle r of R, per head h,

.. math:: l_{ijh} = \tau_r \frac{q_i \cdot k_j}{|q_i| |k_j|} + \beta g_{ij}
    - \frac{r}{\max(R - 1, 1)} \gamma_h |x_i - x_j|^2, \quad r = 0, ..., R - 1.

Positions say nothing in the first recycle, where they are a perceptron's, and most in the last.
The rest of a block is :class:`~spatial_ipa.model.block.IPALiteBlock`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.sparse import distance_logits
from spatial_ipa.model.block import Attended, IPALiteBlock
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.recycle import Recycle
from spatial_ipa.model.states import StatesModel


class IPAUnsharedModel(StatesModel):
    """The model of the module docstring; 352,281 parameters with 3 recycles.

    That is the count published of the reference design, whose parts are not: here they are three
    blocks, three tau, begun at the root of the width of a head, and four gamma of all blocks.  The
    last block updates states that nobody reads.

    Args:
        settings: widths, depth and weights.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings, settings.pair_bias)
        c = settings
        self.blocks = nn.ModuleList(
            IPALiteBlock(c.c_s, c.heads, c.c_head, c.beta, product="cosine", points=c.point_offsets)
            for _ in range(c.recycles)
        )
        self.gamma = nn.Parameter(torch.zeros(c.heads))

    def recycle(self, at: Recycle) -> tuple[Tensor, Tensor]:
        state, moved = self.blocks[at.step](self._with_distance(at, self.distance(at)))
        return state, moved

    def attended(self, at: Recycle) -> Attended:
        block = self.blocks[at.step]
        assert isinstance(block, IPALiteBlock)
        distance = self.distance(at)
        return block.attended(self._with_distance(at, distance))._replace(distance=distance)

    def distance(self, at: Recycle) -> Tensor:
        """(E, H) the distance term of a recycle."""
        share = at.step / max(self.recycles - 1, 1)
        return distance_logits(at.x, at.edges, share * functional.softplus(self.gamma))

    def _with_distance(self, at: Recycle, distance: Tensor) -> Recycle:
        """The same with logits (E, H) of the gate and the distance term."""
        gate = at.gate
        if gate is None:
            return replace(at, gate=distance)
        if gate.dim() == 1:
            gate = self.settings.beta * gate[:, None]
        return replace(at, gate=distance + gate)
