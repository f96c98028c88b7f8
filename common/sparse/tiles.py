"""What the launches of Triton kernels share: powers of two, types of sums, scalars, devices.

Block sizes are functions of the shapes alone, never timed: a run gives the same bits every time
and every rank compiles the same kernels.  Triton is imported at the first launch.
"""

from __future__ import annotations

import math
import struct
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def power_of_two(size: int) -> int:
    """The least power of two that is at least ``size``, and at least 1."""
    return 1 << max(size - 1, 0).bit_length()


def accumulator(tensor: Tensor) -> torch.dtype:
    """float64 for float64, float32 for narrower types."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current CUDA device, which need not be that of the tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def split_float(value: float) -> tuple[float, float]:
    """``value`` as a sum of two float32 numbers: Triton passes scalars in float32."""
    high = struct.unpack("f", struct.pack("f", value))[0]
    return high, (value - high if math.isfinite(value) else 0.0)


def contiguous(*tensors: Any) -> list[Any]:
    """Contiguous copies where needed; None stays None."""
    return [None if t is None else t.contiguous() for t in tensors]
