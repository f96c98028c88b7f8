"""Centre, radius and pose of layouts, for tensors and for arrays.

A layout in gauge has mean 0 and RMS radius 1.  Tensors may hold a union of graphs and stay on their
device; arrays are one layout, in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from common.errors import UserError

Array = NDArray[np.float64]

_TINY = 1e-12


def graph_mean(value: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
    """(B, ...) mean of ``value`` (M, ...) over the members of each graph; ``graph`` is (M,)."""
    total = value.new_zeros(num_graphs, *value.shape[1:]).index_add(0, graph, value)
    count = torch.bincount(graph, minlength=num_graphs).clamp(min=1).to(value.dtype)
    return total / count.view(-1, *[1] * (value.dim() - 1))


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, widened to float32 if it is of half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def gauge_fix(x: Tensor, graph: Tensor | None = None, num_graphs: int = 1) -> Tensor:
    """Subtract the mean and divide by the RMS radius, in each graph.

    Args:
        x: (N, 2) coordinates.
        graph: (N,) int64, the graph of each node; one graph when left out.
        num_graphs: B.

    Returns:
        (N, 2), at least float32.  A graph whose points all coincide stays at the origin, with
        finite gradients.
    """
    if graph is None:
        graph = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    x = at_least_float32(x)
    x = x - graph_mean(x, graph, num_graphs).index_select(0, graph)
    radius = (graph_mean(x.square().sum(1), graph, num_graphs) + _TINY).sqrt()
    return x / radius.index_select(0, graph)[:, None]


def checked_layout(name: str, xy: ArrayLike) -> Array:
    """(n, 2) float64.

    Raises:
        ValueError: for another shape, or coordinates that are not finite.
    """
    points = np.asarray(xy, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise UserError(f"{name} must have shape (n, 2), got {points.shape}")
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise UserError(f"{name} must be finite, but {bad} of its {len(points)} rows are not")
    return points


def checked_pair(pred: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Both (n, 2) float64.

    Raises:
        ValueError: as :func:`checked_layout`, or for different numbers of rows.
    """
    p, t = checked_layout("pred", pred), checked_layout("target", target)
    if len(p) != len(t):
        raise UserError(f"pred and target must have as many rows, got {len(p)} and {len(t)}")
    return p, t


def gauge_fix_array(xy: ArrayLike) -> Array:
    """Subtract the mean and divide by the RMS radius; a layout of coincident points becomes 0.

    Args:
        xy: (n, 2) coordinates in any unit.

    Returns:
        (n, 2) float64, mean 0 and RMS radius 1.
    """
    points = checked_layout("xy", xy)
    extent = np.abs(points).max(initial=0.0)
    points = points - points.mean(axis=0)
    radius = np.sqrt((points**2).sum(axis=1).mean())
    # Subtracting the mean of equal points leaves rounding, which must not be blown up to radius 1.
    if radius <= 1e-13 * extent or radius == 0.0:
        return np.zeros_like(points)
    return points / radius


def procrustes_rotation(pred: ArrayLike, target: ArrayLike) -> tuple[Array, float]:
    """The orthogonal R and scale c minimising |c p R - t|, with p and t both in gauge.

    Args:
        pred: (n, 2) layout to be moved.
        target: (n, 2) layout it is moved onto, point by point.

    Returns:
        R, (2, 2) float64 with determinant +1 or -1, applied from the right to row vectors, and c,
        which is also the Procrustes correlation in [0, 1].
    """
    p, t = (gauge_fix_array(x) for x in checked_pair(pred, target))
    u, singular, vt = np.linalg.svd(p.T @ t)
    return u @ vt, min(float(singular.sum()) / len(p), 1.0)
