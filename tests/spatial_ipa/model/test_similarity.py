"""Features of edges against loops over edges."""

from __future__ import annotations

import numpy as np
import torch

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.model.similarity import (
    DISTANCES,
    SIMILARITIES,
    distance_features,
    similarity_features,
)


def example(n: int = 30, k: int = 7) -> tuple[torch.Tensor, torch.Tensor, EdgeList]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return h, torch.randn(n, 2, generator=generator, dtype=torch.float64), knn_edges(h, k)


def test_similarities_equal_a_loop() -> None:
    h, _, edges = example()
    unit = (h / h.norm(dim=1, keepdim=True)).numpy()
    dst, src = edges.dst.numpy(), edges.src.numpy()
    rows: dict[int, list[float]] = {i: [] for i in range(len(h))}
    for i, j in zip(dst, src, strict=True):
        rows[i].append(float(unit[i] @ unit[j]))
    expected = []
    for i, j in zip(dst, src, strict=True):
        c = float(unit[i] @ unit[j])
        own, other = ((c - np.mean(rows[cell])) / np.std(rows[cell]) for cell in (i, j))
        expected.append([c, own, other, c * own])
    found = similarity_features(h, edges)
    assert found.shape == (edges.num_edges, SIMILARITIES)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_distances_equal_a_loop() -> None:
    _, x, edges = example()
    points, dst, src = x.numpy(), edges.dst.numpy(), edges.src.numpy()
    square = ((points[dst] - points[src]) ** 2).sum(axis=1)
    mean = np.array([square[dst == i].mean() for i in dst])
    expected = np.stack(
        [np.sqrt(square), square, square / mean, np.exp(-10 * square), np.exp(-2 * square)], axis=1
    )
    found = distance_features(x, edges)
    assert found.shape == (edges.num_edges, DISTANCES)
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_neither_turning_h_nor_moving_x_changes_them() -> None:
    h, x, edges = example()
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    torch.testing.assert_close(similarity_features(3 * h @ q, edges), similarity_features(h, edges))
    turn = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(distance_features(x @ turn + 5, edges), distance_features(x, edges))


def test_lonely_and_equal_cells_stay_finite() -> None:
    h = torch.ones(4, 3)
    edges = EdgeList.from_edge_index(torch.tensor([[1, 2, 3], [0, 0, 1]]), 4)
    found = similarity_features(h, edges)
    assert torch.isfinite(found).all()
    assert found[:, 1:].abs().max() == 0  # nothing stands out where all are alike
    assert torch.isfinite(distance_features(torch.zeros(4, 2), edges)).all()
