"""What the forms of the edge gate take."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GateInputs(NamedTuple):
    """Node features and layers, as ``nn.Linear`` holds them; one floating dtype."""

    h: Tensor  # (N, F)
    w1: Tensor  # (M, 4F)
    b1: Tensor  # (M,)
    w2: Tensor  # (M, M)
    b2: Tensor  # (M,)
    w3: Tensor  # (1, M)
    b3: Tensor  # (1,)


class GateParts(NamedTuple):
    """The same with the first layer's products with h_i and h_j taken once per node."""

    at_dst: Tensor  # (N, M)
    at_src: Tensor  # (N, M)
    h: Tensor  # (N, F)
    w_in: Tensor  # (M, 2F): the first layer for |h_i - h_j| and h_i * h_j
    w_mid: Tensor  # (M, M)
    b_mid: Tensor  # (M,)
    w_out: Tensor  # (1, M)
    b_out: Tensor  # (1,)


def parts_of(inputs: GateInputs) -> GateParts:
    """Split the first layer, and apply its node-wise halves."""
    h, w1, b1, *later = inputs
    width = h.shape[1]
    w_dst, w_src, w_in = w1.split([width, width, 2 * width], dim=1)
    with torch.autocast(h.device.type, enabled=False):
        at_dst, at_src = F.linear(h, w_dst, b1), F.linear(h, w_src)
    return GateParts(at_dst, at_src, h, w_in, *later)
