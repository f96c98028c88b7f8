"""What the sparse operations refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import edge_gate, edge_softmax, neighbor_attention, spmm

EDGES = EdgeList.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 0, 0, 2]]), 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_wrong_shapes_are_named() -> None:
    q, x, w_x = draw(4, 2, 8), draw(4, 2), draw(2, 2, 2)
    with pytest.raises(ValueError, match=r"q must have shape .*got \(3, 2, 8\)"):
        neighbor_attention(q[:3], q, q, x, EDGES, w_x)
    with pytest.raises(ValueError, match="k must have shape"):
        neighbor_attention(q, q[:, :1], q, x, EDGES, w_x)
    with pytest.raises(ValueError, match="w_x must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x[:1])
    with pytest.raises(ValueError, match="gate must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x, gate=draw(5))
    with pytest.raises(ValueError, match="bias must have shape"):
        neighbor_attention(q, q, q, x, EDGES, w_x, bias=draw(4))
    with pytest.raises(ValueError, match="w1 must have shape"):
        edge_gate(draw(4, 3), EDGES, draw(5, 9), draw(5), draw(5, 5), draw(5), draw(1, 5), draw(1))
    with pytest.raises(ValueError, match="weight must have shape"):
        spmm(draw(3), EDGES, draw(4, 2))
    with pytest.raises(ValueError, match="logits must have shape"):
        edge_softmax(draw(3), EDGES)


def test_mixed_and_integer_types_are_named() -> None:
    with pytest.raises(ValueError, match=r"dense must have the dtype of weight, torch.float32"):
        spmm(draw(4), EDGES, draw(4, 2).double())
    with pytest.raises(ValueError, match="weight must be floating"):
        spmm(torch.ones(4, dtype=torch.long), EDGES, draw(4, 2))
