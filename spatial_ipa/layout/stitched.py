"""Coordinates of many cells from minisets of the trained size.

One pass splits the cells at random into minisets that all contain the same anchors; each miniset is
placed, superposed on its anchors and cut off them.  Every cell is placed once per pass, and passes
differ in anchors and split.  The work is linear in the number of cells and needs no graph over all
of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from common.align import align
from common.errors import UserError
from common.graph.knn import knn_edges
from common.rng import generator_for
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.layout.placement import SHOW_AFTER, PlaceGraph, Placement, consensus, noisy
from spatial_ipa.layout.whole import place_whole

# Nodes placed in one call of the model; bounds the memory, not the result.
_NODES_PER_CALL = 16_384


@torch.no_grad()
def place_stitched(
    place: PlaceGraph,
    h: Tensor,
    num_candidates: int,
    num_draws: int,
    seed: int,
    noise_h: float,
    size: int = 384,
    num_anchors: int | None = None,
) -> Placement:
    """Place cells in minisets that share anchors, in ``num_draws`` passes.

    Args:
        place: the model.
        h: (n, d) embeddings.
        num_candidates: k of the candidate graph of a miniset.
        num_draws: passes over all cells.
        seed: of splits, anchors and noise.
        noise_h: standard deviation of the noise on the embeddings.
        size: nodes of a miniset, anchors among them.
        num_anchors: cells that every miniset of a pass contains; a third of ``size`` when None.

    Raises:
        ValueError: if ``num_anchors`` is below 2 or not below ``size``.
    """
    num_anchors = size // 3 if num_anchors is None else num_anchors
    if not 2 <= num_anchors < size:
        raise UserError(f"num_anchors must lie in [2, size = {size}), got {num_anchors}")
    n = h.shape[0]
    if n <= size:
        return place_whole(place, h, num_candidates, num_draws, seed, noise_h)
    passes = []
    parts_per_pass = -(-(n - num_anchors) // (size - num_anchors))
    bar = tqdm(
        total=num_draws * parts_per_pass, desc="placing", unit="miniset", delay=SHOW_AFTER,
        leave=False,
    )  # fmt: skip
    for draw in range(num_draws):
        generator = generator_for(seed, draw)
        order = torch.randperm(n, generator=generator)
        anchors, rest = order[:num_anchors], order[num_anchors:]
        # Equal parts: a last miniset of a few cells would be unlike all the model has seen.
        parts = list(rest.tensor_split(parts_per_pass))
        per_call = max(1, _NODES_PER_CALL // size)
        xy = h.new_zeros(n, 2)
        reference: Tensor | None = None
        anchor_sum = h.new_zeros(num_anchors, 2)
        for at in range(0, len(parts), per_call):
            group = parts[at : at + per_call]
            members = [torch.cat([anchors, part]) for part in group]
            layout = _place_union(place, h, members, num_candidates, generator, noise_h)
            if reference is None:
                reference = layout[0][:num_anchors]
            stack = torch.stack([x[:num_anchors] for x in layout])  # (B, A, 2)
            fit = align(stack, reference.expand_as(stack), reflection=True)
            anchor_sum += fit.apply(stack).sum(0)
            # Parts differ in size by one cell at most, so they are moved as one padded stack.
            others = torch.nn.utils.rnn.pad_sequence(
                [x[num_anchors:] for x in layout], batch_first=True
            )
            for part, moved in zip(group, fit.apply(others), strict=True):
                xy[part] = moved[: len(part)]
            bar.update(len(group))
        xy[anchors] = anchor_sum / len(parts)
        passes.append(gauge_fix(xy))
    bar.close()
    return consensus(torch.stack(passes))


def _place_union(
    place: PlaceGraph,
    h: Tensor,
    members: list[Tensor],
    num_candidates: int,
    generator: torch.Generator,
    noise_h: float,
) -> list[Tensor]:
    """Layouts of several minisets of cells, placed as one disjoint union."""
    count = torch.tensor([len(m) for m in members], device=h.device)
    ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    cells = torch.cat(members).to(h.device)
    rows = h[cells]
    graph = torch.repeat_interleave(count)
    noise = torch.randn(rows.shape[0], 2, generator=generator).to(h)
    edges = knn_edges(rows, num_candidates, ptr)
    x = place(noisy(rows, noise_h, generator), cells, edges, graph, len(members), noise)
    return list(x.split(count.tolist()))
