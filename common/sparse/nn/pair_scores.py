"""Scores of GATv2, ``s_eh = sum_c att_hc LeakyReLU(l_jhc + r_ihc + (W_h e)_c)``.

Edges are taken in blocks, and backward computes them anew: no E x H x C array is built.  Brody,
Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022, eq. 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList
from common.sparse.checks import at_least_float32

_BLOCK_VALUES = 2**18  # of a block of edges x H x C: 1 MB, which second-level caches hold


class Edges(NamedTuple):
    """Features (E, F) in the order of the edge list, and their map (H, C, F)."""

    features: Tensor
    weight: Tensor


def pair_scores(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    edges: EdgeList,
    slope: float,
    at_edges: Edges | None = None,
) -> Tensor:
    """(E, H) scores, in float32 or wider.

    Args:
        left: (N, H, C) float, read at sources.
        right: (N, H, C), read at destinations.
        att: (H, C).
        edges: E edges over N nodes.
        slope: of LeakyReLU below zero.
        at_edges: features of edges and their map, or None.

    Differentiable once in all tensors.  Gradients of nodes are added edge by edge: on CUDA devices
    in no fixed order, unless ``torch.use_deterministic_algorithms`` is set.
    """
    features, weight = (None, None) if at_edges is None else at_edges
    tensors = at_least_float32(left, right, att, features, weight)
    with torch.autocast(left.device.type, enabled=False):
        return _PairScores.apply(edges, slope, *tensors)


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: EdgeList, slope: float, *tensors: Tensor | None) -> Tensor:
        ctx.edges, ctx.slope = edges, slope
        ctx.save_for_backward(*tensors)
        left, _right, att, _features, _weight = tensors
        assert left is not None
        assert att is not None
        scores = left.new_empty(edges.num_edges, att.shape[0])
        for ids in _blocks(edges, att):
            z = _sums(ids, edges, *tensors)
            scores[ids] = torch.einsum("ehc,hc->eh", F.leaky_relu(z, slope), att)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        edges: EdgeList = ctx.edges
        left, right, att, features, weight = ctx.saved_tensors
        dleft, dright, datt = (torch.zeros_like(t) for t in (left, right, att))
        dfeatures, dweight = (
            None if t is None else torch.zeros_like(t) for t in (features, weight)
        )
        for ids in _blocks(edges, att):
            z = _sums(ids, edges, left, right, att, features, weight)
            datt += torch.einsum("eh,ehc->hc", grad[ids], F.leaky_relu(z, ctx.slope))
            dz = grad[ids, :, None] * att * torch.where(z > 0, 1.0, ctx.slope).to(z.dtype)
            dleft.index_add_(0, edges.src[ids], dz)
            dright.index_add_(0, edges.dst[ids], dz)
            if dfeatures is not None and dweight is not None:
                dfeatures[ids] = torch.einsum("ehc,hcf->ef", dz, weight)
                dweight += torch.einsum("ehc,ef->hcf", dz, features[ids])
        return None, None, dleft, dright, datt, dfeatures, dweight


def _blocks(edges: EdgeList, att: Tensor) -> Iterator[slice]:
    size = max(_BLOCK_VALUES // max(att.numel(), 1), 1)
    for start in range(0, edges.num_edges, size):
        yield slice(start, min(start + size, edges.num_edges))


def _sums(ids: slice, edges: EdgeList, *tensors: Tensor | None) -> Tensor:
    """(block, H, C), before the nonlinearity."""
    left, right, _att, features, weight = tensors
    assert left is not None
    assert right is not None
    z = left.index_select(0, edges.src[ids]) + right.index_select(0, edges.dst[ids])
    if features is not None:
        assert weight is not None
        z += F.linear(features[ids], weight.flatten(0, 1)).view_as(z)
    return z
