"""From raw features of a slide's cells to H: what is done to the rows of one slide together.

The slide's mean is taken out and every row is brought to length 1.  Optionally each is then
replaced by half itself and half the mean of itself and its k nearest rows on the same slide, and
brought to length 1 again.  Rows without counts say nothing: they are 0 and no neighbours of others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.graph.knn import knn_index
from common.rng import generator_for

_PART = 20_000  # cells among which nearest rows are sought: the search costs their square
_BLOCK = 4096  # cells whose neighbours' rows are gathered at once


def slide_features(h: Tensor, filled: Tensor, smooth: int) -> Tensor:
    """(n, d) float32 features; a new tensor.

    Args:
        h: (n, d) raw features of all cells of one slide.
        filled: (n,) bool, rows with counts.
        smooth: nearest rows averaged over; 0 for none.  Beyond 20,000 cells they are the nearest
            of a random part of the slide.
    """
    result = torch.zeros_like(h, dtype=torch.float32)
    rows = h[filled].float()
    if not len(rows):
        return result
    rows = rows - rows.double().mean(0).float()
    rows = F.normalize(rows, dim=1)
    if smooth and len(rows) > 1:
        rows = F.normalize(_smoothed(rows, smooth), dim=1)
    result[filled] = rows
    return result


def _smoothed(h: Tensor, k: int) -> Tensor:
    num_parts = -(-len(h) // _PART)
    if num_parts == 1:
        return _smoothed_part(h, k)
    found = torch.empty_like(h)
    for part in torch.randperm(len(h), generator=generator_for(0, 31)).tensor_split(num_parts):
        found[part] = _smoothed_part(h[part], k)
    return found


def _smoothed_part(h: Tensor, k: int) -> Tensor:
    k = min(k, len(h) - 1)
    index, _ = knn_index(h, k)  # (n, k)
    found = torch.empty_like(h)
    for start in range(0, len(h), _BLOCK):
        rows = slice(start, start + _BLOCK)
        own = h[rows]
        found[rows] = own / 2 + (own + h[index[rows]].sum(1)) / (2 * (k + 1))
    return found
