"""The layers of the encoder: a shared trunk, and an adapter in front of it for scRNA-seq.

``SharedEncoder`` is an MLP G -> 512 -> 256 -> 128 with GELU.  As gelu(z) - gelu(-z) = z, units that
come in pairs (+z, -z) pass r linear features through unchanged, so :meth:`SharedEncoder.set_linear`
starts the network *at* a given linear map (PCA, or spatial PCA) and training can only start from
there.  The remaining units of the first layer start at random with outgoing weight 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


class SharedEncoder(nn.Module):
    """MLP num_genes -> hidden[0] -> hidden[1] -> d_out, GELU and dropout between.

    Args:
        num_genes: G.
        d_out: width of H.
        hidden: widths of the hidden layers.
        dropout: of the hidden units, in training.
        generator: of the initial weights (uniform in +-1/sqrt(fan_in)); seed 0 when None.

    Raises:
        ValueError: on a width that is not positive or a dropout outside [0, 1).
    """

    def __init__(
        self,
        num_genes: int,
        d_out: int = 128,
        hidden: tuple[int, int] = (512, 256),
        dropout: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(num_genes, d_out, *hidden) < 1 or len(hidden) != 2:
            raise UserError(
                f"widths must be positive and hidden two of them, got num_genes={num_genes}, "
                f"d_out={d_out}, hidden={hidden}"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {dropout}")
        self.num_genes, self.d_out, self.hidden = num_genes, d_out, (hidden[0], hidden[1])
        self.first = nn.utils.skip_init(nn.Linear, num_genes, hidden[0])
        self.second = nn.utils.skip_init(nn.Linear, hidden[0], hidden[1])
        self.third = nn.utils.skip_init(nn.Linear, hidden[1], d_out)
        self.dropout = dropout
        self.out_scale: Tensor
        self.register_buffer("out_scale", torch.ones(()))
        self.reset_parameters(generator or torch.Generator().manual_seed(0))

    @property
    def row_elements(self) -> int:
        """Numbers that embedding holds for each row."""
        return max(self.num_genes, *self.hidden)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in (self.first, self.second, self.third):
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def set_linear(self, components: Tensor, generator: torch.Generator) -> None:
        """Make the network compute x @ components, in the first columns of H, the others being 0.

        Args:
            components: (num_genes, r) with 2 r <= both hidden widths and r <= d_out.
            generator: for first-layer units that are not needed; they see random mixtures of the
                components and have outgoing weight 0 until training gives them some.

        Raises:
            ValueError: if the shape does not fit.
        """
        rank = components.shape[1]
        limit = min(self.hidden[0] // 2, self.hidden[1] // 2, self.d_out)
        if components.shape[0] != self.num_genes or not 1 <= rank <= limit:
            raise UserError(
                f"components must be ({self.num_genes}, r) with r <= {limit} (half of hidden, and "
                f"d_out), got {tuple(components.shape)}"
            )
        spare = self.hidden[0] - 2 * rank
        eye = torch.eye(rank)
        mixture = torch.randn(spare, rank, generator=generator).to(components) * rank**-0.5
        self.first.weight.copy_(torch.cat([components.T, -components.T, mixture @ components.T]))
        self.first.bias.zero_()
        self.first.bias[2 * rank :] = 0.5 * torch.randn(spare, generator=generator)
        for layer in (self.second, self.third):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[:rank, : 2 * rank] = torch.cat([eye, -eye], dim=1)
        self.second.weight[rank : 2 * rank, : 2 * rank] = torch.cat([-eye, eye], dim=1)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(n, num_genes) centred expression to (n, d_out); dropout only with a generator."""
        h = self._drop(F.gelu(self.first(x)), generator)
        h = self._drop(F.gelu(self.second(h)), generator)
        return self.third(h) * self.out_scale

    def _drop(self, h: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or self.dropout == 0:
            return h
        keep = torch.rand(h.shape, generator=generator) >= self.dropout
        return h * keep.to(h.device) / (1 - self.dropout)


class ScRNAAdapter(nn.Module):
    """x -> exp(s) x + t + U (V x), gene-wise affine and low-rank residual; at first the identity.

    Args:
        num_genes: G.
        rank: of the residual.
        generator: of V; U is zero.  Seed 0 when None.
    """

    def __init__(
        self, num_genes: int, rank: int = 16, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        self.num_genes, self.rank = num_genes, rank
        self.log_scale = nn.Parameter(torch.zeros(num_genes))
        self.shift = nn.Parameter(torch.zeros(num_genes))
        down = torch.randn(rank, num_genes, generator=generator) * num_genes**-0.5
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(num_genes, rank))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, as before any training."""
        return not any(bool(p.any()) for p in (self.log_scale, self.shift, self.up))

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_genes) to the same."""
        return x * self.log_scale.exp() + self.shift + (x @ self.down.T) @ self.up.T
