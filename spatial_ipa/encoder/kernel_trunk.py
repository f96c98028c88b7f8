"""The kernel-eigenmap encoder as layers: from centred expression to unnormalised H.

    z_b = x W_b,      k_l(x) = mean_b exp(-|z_b - z_bl|^2 / w_b),      h(x) = s sum_l k_l(x) a_l

for linear maps W_b, landmark cells l, widths w_b, coefficients a_l and one scale s
(:mod:`spatial_ipa.encoder.eigenmaps` fits them).  All are buffers: nothing is trained, and
gradients pass to x, so that an adapter can be trained in front.  What is done to the rows of a
slide afterwards is :mod:`spatial_ipa.encoder.slide_features`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError


class KernelTrunk(nn.Module):
    """Kernel regression on landmark cells, with the record of its training rows.

    Args:
        num_genes: G.
        d_out: width of H.
        num_landmarks: m.
        width: most directions of one of the two linear maps, r.
        num_rows: n, training rows.

    Attributes:
        maps: (2, G, r) W.
        landmarks: (2, m, r) z of the landmarks.
        widths: (2,) w.
        coefficients: (m, d_out) a.
        out_scale: s; brings the variance of H over the training rows to 1.
        smooth: neighbours in H that a row is averaged with afterwards; 0 for none.
        penalty: of the regression.
        targets: (n, d_out) what it was fitted to.
        slide: (n,) int64 number of each training row's slide, ascending.
        row: (n,) int64 its row there.
        landmark_rows: (m,) int64 which training rows are the landmarks, in their order.

    Raises:
        ValueError: on a size that is not positive.
    """

    maps: Tensor
    landmarks: Tensor
    widths: Tensor
    coefficients: Tensor
    out_scale: Tensor
    smooth: Tensor
    penalty: Tensor
    targets: Tensor
    slide: Tensor
    row: Tensor
    landmark_rows: Tensor

    def __init__(
        self, num_genes: int, d_out: int, num_landmarks: int, width: int, num_rows: int
    ) -> None:
        super().__init__()
        if min(num_genes, d_out, num_landmarks, width, num_rows) < 1:
            raise UserError(
                f"sizes must be positive, got num_genes={num_genes}, d_out={d_out}, "
                f"num_landmarks={num_landmarks}, width={width}, num_rows={num_rows}"
            )
        self.num_genes, self.d_out = num_genes, d_out
        for name, shape in (
            ("maps", (2, num_genes, width)),
            ("landmarks", (2, num_landmarks, width)),
            ("widths", (2,)),
            ("coefficients", (num_landmarks, d_out)),
            ("out_scale", ()),
            ("penalty", ()),
            ("targets", (num_rows, d_out)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        for name, shape in (
            ("smooth", ()),
            ("slide", (num_rows,)),
            ("row", (num_rows,)),
            ("landmark_rows", (num_landmarks,)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))

    @staticmethod
    def like(tensors: dict[str, Tensor]) -> KernelTrunk:
        """A trunk with the sizes, and then the values, of a state dictionary.

        Raises:
            KeyError: if a tensor is missing.
            RuntimeError: if their sizes disagree.
        """
        _, num_genes, width = tensors["maps"].shape
        num_landmarks, d_out = tensors["coefficients"].shape
        trunk = KernelTrunk(num_genes, d_out, num_landmarks, width, len(tensors["targets"]))
        trunk.load_state_dict(tensors)
        return trunk

    @property
    def row_elements(self) -> int:
        """Numbers that embedding holds for each row."""
        return max(self.num_genes, 3 * len(self.coefficients))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(n, num_genes) centred expression to (n, d_out).

        Args:
            x: rows.
            generator: not used; that of :class:`SharedEncoder` is for its dropout.
        """
        return self.kernel(x) @ self.coefficients * self.out_scale

    def kernel(self, x: Tensor) -> Tensor:
        """(n, m) between rows (n, num_genes) and the landmarks, in [0, 1]."""
        first, second = (
            gaussian_kernel(x @ w, z, width)
            for w, z, width in zip(self.maps, self.landmarks, self.widths, strict=True)
        )
        return (first + second) / 2


def gaussian_kernel(a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
    """(n, m) exp(-|a_i - b_j|^2 / width) of (n, r) and (m, r)."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return (-(squares - 2 * a @ b.T).clamp_min(0) / width).exp()
