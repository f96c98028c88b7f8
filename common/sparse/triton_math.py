"""Functions of one number that the Triton kernels share.  Needs Triton at import."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def finite_shift(peak):
    """The maximum to subtract before exp: 0 where there is none, as -inf - -inf is NaN."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def gelu(z):
    """GELU with the exact error function."""
    return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def gelu_slope(z):
    """The derivative of :func:`gelu`."""
    density = tl.exp(-0.5 * z * z) * 0.3989422804014327
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * density
