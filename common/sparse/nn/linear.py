"""A linear map with the initial weights that PyG's layers draw, from the same random numbers."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

Start = Literal["kaiming_uniform", "glorot"]


class Linear(nn.Module):
    """``x W^T + b``; ``weight`` (out, in), ``bias`` (out,) or None, as in ``torch.nn.Linear``.

    The weight starts uniform in ``± 1 / sqrt(in)`` or, with ``start="glorot"``, in
    ``± sqrt(6 / (in + out))`` (Glorot and Bengio, AISTATS 2010, eq. 16); the bias in
    ``± 1 / sqrt(in)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        start: Start = "kaiming_uniform",
    ) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise UserError(
                f"channels must be at least 1, got {in_channels} in and {out_channels} out; sizes "
                "that are taken from the first input (-1) are not supported: give them"
            )
        self.in_channels, self.out_channels, self.start = in_channels, out_channels, start
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        if self.start == "glorot":
            glorot(self.weight)
        else:
            nn.init.uniform_(self.weight, *_bounds(self.in_channels))
        if self.bias is not None:
            nn.init.uniform_(self.bias, *_bounds(self.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, bias={self.bias is not None}"


def glorot(weight: Tensor) -> None:
    """Fill (..., fan out, fan in) in place, uniform in ``± sqrt(6 / (fan in + fan out))``."""
    bound = math.sqrt(6.0 / (weight.shape[-2] + weight.shape[-1]))
    nn.init.uniform_(weight, -bound, bound)


def _bounds(fan_in: int) -> tuple[float, float]:
    bound = 1.0 / math.sqrt(fan_in)
    return -bound, bound
