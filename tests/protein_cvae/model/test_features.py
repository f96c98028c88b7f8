"""Graphs of residues against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from common.graph.edges import EdgeList
from protein_cvae.model.features import NUM_SEPARATIONS, ChainGraph, edge_features, residue_graph

FARTHEST = (NUM_SEPARATIONS - 2) // 2


def batch() -> tuple[torch.Tensor, ...]:
    """Three items: with gaps, with two chains, and with two residues; CA, mask, chain, position."""
    rng = np.random.default_rng(0)
    ca = torch.from_numpy(8 * rng.normal(size=(3, 40, 3)))
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[0, [3, 4, 17, 39]] = False
    mask[2, 2:] = False
    chain = torch.zeros(3, 40, dtype=torch.int64)
    chain[1, 23:] = 1
    position = torch.arange(40).repeat(3, 1)
    position[1, 23:] -= 23
    return ca, mask, chain, position


@pytest.mark.parametrize(("along", "near"), [(4, 6), (0, 5), (6, 0), (2, 60)])
def test_residue_graph_is_that_of_brute_force(along: int, near: int):
    ca, mask, chain, position = batch()
    wanted = []
    for b in range(3):
        there = np.flatnonzero(mask[b].numpy())
        away = cdist(ca[b].numpy(), ca[b].numpy())
        for i in there:
            others = there[there != i]
            close = set(others[np.argsort(away[i, others])][:near].tolist())
            for j in others:
                bonded = chain[b, i] == chain[b, j] and abs(i - j) <= along // 2
                if bonded or j in close:
                    gap = int(position[b, j] - position[b, i])
                    kind = FARTHEST + max(-FARTHEST, min(FARTHEST, gap))
                    other = NUM_SEPARATIONS - 1
                    same = bool(chain[b, i] == chain[b, j])
                    wanted.append((40 * b + i, 40 * b + j, kind if same else other))
    graph = residue_graph(ca, mask, chain, position, along, near)
    found = zip(
        graph.nodes[graph.edges.dst].tolist(),
        graph.nodes[graph.edges.src].tolist(),
        graph.separation.tolist(),
        strict=True,
    )
    assert list(found) == sorted(wanted)  # sorted by destination, then by source, each once
    degree = np.bincount([i for i, _, _ in wanted], minlength=120)[mask.flatten().numpy()]
    np.testing.assert_array_equal(graph.edges.in_degree.numpy(), degree)


def test_one_chain_graph_serves_residues_that_move():
    ca, mask, chain, position = batch()
    shared = ChainGraph.build(mask, chain, position, 4)
    for x in (ca, ca + torch.randn(ca.shape, generator=torch.Generator().manual_seed(1)), ca):
        alone = residue_graph(x, mask, chain, position, 4, 6)
        again = shared.with_near(x[mask], 6)
        for a, b in (
            (alone.nodes, again.nodes),
            (alone.edges.src, again.edges.src),
            (alone.edges.dst, again.edges.dst),
            (alone.separation, again.separation),
        ):
            assert torch.equal(a, b)


def test_no_residue_at_all_is_an_empty_graph():
    ca, mask, chain, position = batch()
    graph = residue_graph(ca, torch.zeros_like(mask), chain, position, 4, 0)
    assert len(graph.nodes) == len(graph.edges.src) == len(graph.separation) == 0


def test_two_threads_give_the_same_gradients_of_edge_features_every_time(two_threads: None):
    """Many edges on few residues: where threads add as they come, they add to the same rows."""
    generator = torch.Generator().manual_seed(0)
    edges = EdgeList.from_edge_index(torch.randint(20, (2, 40_000), generator=generator), 20)
    rotation = torch.randn(20, 3, 3, generator=generator).requires_grad_()
    origin = torch.randn(20, 3, generator=generator).requires_grad_()
    found = [
        torch.autograd.grad(edge_features(rotation, origin, edges).sum(), (rotation, origin))
        for _ in range(4)
    ]
    for again in found[1:]:
        assert torch.equal(found[0][0], again[0])
        assert torch.equal(found[0][1], again[1])
