"""The edge gate in plain PyTorch: the truth that every fast form is tested against.

A perceptron on ``[h_i, h_j, |h_i - h_j|, h_i * h_j]`` of every edge (j, i), GELU with the exact
error function after the first two layers.  Any floating dtype and device; differentiable any
number of times; E x 4F arrays are built, so this is for checking and for small inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.gate.inputs import GateInputs


def edge_gate(inputs: GateInputs, edges: EdgeList) -> Tensor:
    """(E,) perceptron outputs on the (E, 4F) pair features."""
    h, w1, b1, w2, b2, w3, b3 = inputs
    hi, hj = h[edges.dst], h[edges.src]
    features = torch.cat([hi, hj, (hi - hj).abs(), hi * hj], dim=-1)
    hidden = F.gelu(F.linear(features, w1, b1))
    hidden = F.gelu(F.linear(hidden, w2, b2))
    return F.linear(hidden, w3, b3).squeeze(-1)
