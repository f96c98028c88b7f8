"""Problems for the Triton kernels: interpreted on CPU, and compiled on CUDA devices.

Triton decides at import whether to interpret, so the interpreted cases run in a process of their
own, started by ``test_triton.py`` with TRITON_INTERPRET=1; without it they run compiled on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import neighbor_attention, use_backend
from common.sparse.backends import triton_installed, triton_interpreted

needs_triton = pytest.mark.skipif(not triton_installed(), reason="Triton is not installed")
INTERPRETED = triton_interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
compiled_or_interpreted = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no CUDA device; the same cases run interpreted, started by test_triton.py",
)
# nodes, edges, heads, head width, coordinates, features, hidden, beside powers of two and on them
SIZES = [
    (1, 0, 1, 1, 1, 1, 1),
    (5, 1, 2, 3, 2, 3, 5),
    (7, 40, 3, 5, 3, 17, 15),
    (11, 60, 4, 8, 2, 16, 16),
]


class Problem:
    """Random inputs on a random multigraph with a duplicate edge, one row closed, one empty."""

    def __init__(
        self, size: tuple[int, ...], dtype: torch.dtype = torch.float64, index: str = "int64"
    ) -> None:
        nodes, edges, heads, width, coords, features, hidden = size
        self.rng = torch.Generator().manual_seed(sum(size))
        pairs = torch.randint(0, max(nodes - 1, 1), (2, edges), generator=self.rng)
        if edges > 1:
            pairs[:, 1] = pairs[:, 0]
        self.edges = EdgeList.from_edge_index(pairs.to(getattr(torch, index)), nodes).to(DEVICE)
        self.q, self.k, self.v = (self.draw(dtype, nodes, heads, width) for _ in range(3))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.x, self.w_x = self.draw(wide, nodes, coords), self.draw(wide, heads, coords, coords)
        self.gate, self.bias = self.draw(wide, edges), self.draw(wide, edges, heads)
        if edges > 1:
            with torch.no_grad():
                self.gate[self.edges.dst == self.edges.dst[-1]] = -torch.inf
        self.h = self.draw(wide, nodes, features)
        self.layers = [
            self.draw(wide, hidden, 4 * features),
            self.draw(wide, hidden),
            self.draw(wide, hidden, hidden),
            self.draw(wide, hidden),
            self.draw(wide, 1, hidden),
            self.draw(wide, 1),
        ]

    def draw(self, dtype: torch.dtype, *shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        values = torch.randn(*shape, generator=self.rng, dtype=torch.float64) * scale
        return values.to(device=DEVICE, dtype=dtype).requires_grad_()

    @property
    def attention_inputs(self) -> list[Tensor]:
        return [self.q, self.k, self.v, self.x, self.w_x, self.gate, self.bias]


def attention(inputs: list[Tensor], edges: EdgeList, flags: str = "gb") -> list[Tensor]:
    q, k, v, x, w_x, gate, bias = inputs
    with_gate, with_bias = "g" in flags, "b" in flags
    return list(
        neighbor_attention(
            *(q, k, v, x, edges, w_x),
            gate=gate if with_gate else None,
            beta=1.7,
            bias=bias if with_bias else None,
        )
    )


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, then the gradients of their product with fixed random numbers; unused give zero.

    The numbers fit bfloat16, so that they are the same for outputs of every type.
    """
    rng = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=rng).bfloat16().to(o) for o in outputs]
    total = torch.stack([(o * w).double().sum() for o, w in zip(outputs, weights, strict=True)])
    grads = torch.autograd.grad(total.sum(), inputs, allow_unused=True)
    zeros = (torch.zeros_like(t) for t in inputs)
    filled = [z if g is None else g for g, z in zip(grads, zeros, strict=True)]
    return [o.detach() for o in outputs] + filled


def exact(inputs: list[Tensor], edges: EdgeList, flags: str) -> list[Tensor]:
    """Plain form in float64 from the same (rounded) numbers."""
    wide = [t.detach().double().requires_grad_() for t in inputs]
    with use_backend("reference"):
        return gradients(attention(wide, edges, flags), wide)


def assert_close(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Relative to the largest entry of each tensor (at least 1); NaN never passes."""
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.shape == w.shape, n
        if w.numel():
            error = float((g.double() - w).abs().max()) / max(float(w.abs().max()), 1.0)
            assert error <= tolerance, (n, error)
