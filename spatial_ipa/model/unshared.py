r"""IPAUnsharedModel: a block of its own for each recycle, normalised products, scheduled geometry.

In recycle r of R, per head h,

.. math:: l_{ijh} = \tau_r \frac{q_i \cdot k_j}{|q_i| |k_j|} + \beta g_{ij}
    - \frac{r}{\max(R - 1, 1)} \gamma_h |x_i - x_j|^2, \quad r = 0, ..., R - 1.

Positions say nothing in the first recycle, where they are a perceptron's, and most in the last.
The rest of a block is :class:`~spatial_ipa.model.block.IPALiteBlock`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.graph.edges import EdgeList
from spatial_ipa.geometry.walks import squared_distance
from spatial_ipa.model.block import Attended, IPALiteBlock
from spatial_ipa.model.network import NetworkSettings
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

    def recycle(
        self,
        step: int,
        carried: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> tuple[Tensor, Tensor]:
        logits = self._with_gate(self.distance(step, x, edges), gate)
        state, moved = self.blocks[step](carried, x, edges, logits, graph, num_graphs)
        return state, moved

    def attended(
        self,
        step: int,
        read: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> Attended:
        block = self.blocks[step]
        assert isinstance(block, IPALiteBlock)
        distance = self.distance(step, x, edges)
        seen = block.attended(read, x, edges, self._with_gate(distance, gate), graph, num_graphs)
        return seen._replace(distance=distance)

    def distance(self, step: int, x: Tensor, edges: EdgeList) -> Tensor:
        """(E, H) the distance term of a recycle."""
        share = step / max(self.recycles - 1, 1)
        square = squared_distance(x, edges.dst, edges.src)
        return -share * functional.softplus(self.gamma) * square[:, None]

    def _with_gate(self, logits: Tensor, gate: Tensor | None) -> Tensor:
        """(E, H) the distance term and the gate."""
        if gate is None:
            return logits
        return logits + (gate if gate.dim() == 2 else self.settings.beta * gate[:, None])
