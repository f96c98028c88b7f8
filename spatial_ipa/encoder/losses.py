"""Terms of the encoder's training.

With rows of A, B (n, d), means removed where a covariance Cov is taken (divisor n - 1):

* ``vicreg`` (Bardes, Ponce & LeCun, ICLR 2022, eqs. 1-6, divided by the invariance weight 25):
  ``mean (a - b)^2 + sum_views mean_j max(0, 1 - sqrt(var_j + 1e-4))
  + 1/25 sum_views sum_{i != j} Cov_ij^2 / d``.
* ``coral`` (Sun & Saenko, ECCV Workshops 2016, eq. 1): ``|Cov_A - Cov_B|_F^2 / (4 d^2)``.
* ``rbf_mmd`` (Gretton et al., JMLR 13:723, 2012, eq. 5, the biased statistic): mean k(a,a') + mean
  k(b,b') - 2 mean k(a,b), k the mean of Gaussians exp(-|x-y|^2 / (m s)) over m in 1/4, 1, 4; s is
  the mean squared distance of the pooled rows and carries no gradient.
* ``neighbour_kl``: KL(P || Q) of each row, P the spatial kernel T^(1), and
  Q_ij = softmax_{j != i}(-|h_i - h_j|^2 / (d tau)).
* ``log_stress``: variance of log |h_i - h_j| - log |x_i - x_j| over all pairs: the stress of
  :mod:`spatial_ipa.model.losses` for distances in any dimension.  Both spatial terms see distances
  only, no pose.
* ``reverse_gradient`` (Ganin & Lempitsky, ICML 2015): identity whose gradient changes sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from spatial_ipa.geometry.graphs import adaptive_k, spatial_graph
from spatial_ipa.geometry.walks import squared_distance

_MMD_SCALES = (0.25, 1.0, 4.0)
_MIXING_SPOTS = 400  # about so many per slide, for the mixing of slides in H,
_MIXING_TOTAL = 4000  # but at most so many of all: its memory grows with their square


def covariance(x: Tensor) -> Tensor:
    """(d, d) of rows (n, d), divisor n - 1."""
    centred = x - x.mean(0)
    return centred.T @ centred / max(len(x) - 1, 1)


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """VICReg of two views (n, d) of the same n spots; see the module."""
    _check_pair(a, b)
    if a.shape != b.shape:
        raise UserError(f"views must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    loss = F.mse_loss(a, b)
    for view in (a, b):
        cov = covariance(view)
        variance = cov.diagonal()
        loss = loss + F.relu(1 - (variance + 1e-4).sqrt()).mean()
        loss = loss + (cov.square().sum() - variance.square().sum()) / view.shape[1] / 25
    return loss


def coral(a: Tensor, b: Tensor) -> Tensor:
    """Difference of covariances of two domains (n, d) and (m, d)."""
    _check_pair(a, b)
    return (covariance(a) - covariance(b)).square().sum() / (4 * a.shape[1] ** 2)


def rbf_mmd(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two domains (n, d) and (m, d); not negative."""
    _check_pair(a, b)
    rows = torch.cat([a, b])
    d2 = _squared_distances(rows)
    scale = d2.detach().mean().clamp_min(torch.finfo(d2.dtype).tiny)
    kernel = torch.stack([(-d2 / (m * scale)).exp() for m in _MMD_SCALES]).mean(0)
    n = len(a)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def spatial_kernel(xy: Tensor) -> Tensor:
    """(n, n) dense T^(1) on the symmetrised adaptive-kNN graph of coordinates (n, 2)."""
    n = len(xy)
    edges, scale = spatial_graph(xy, adaptive_k(n))
    d2 = squared_distance(xy, edges.src, edges.dst)
    weight = (-d2 / (scale[edges.src] * scale[edges.dst])).exp()
    kernel = xy.new_zeros(n, n)
    kernel[edges.dst, edges.src] = weight
    return kernel / kernel.sum(1, keepdim=True)


def neighbour_kl(h: Tensor, kernel: Tensor, tau: float) -> Tensor:
    """Mean row KL between a spatial kernel (n, n) and soft neighbourhoods in h (n, d)."""
    if not tau > 0:
        raise UserError(f"tau must be positive, got {tau}")
    logits = -_squared_distances(h) / (h.shape[1] * tau)
    logits = logits.masked_fill(torch.eye(len(h), dtype=torch.bool, device=h.device), -torch.inf)
    log_q = logits.log_softmax(1)
    return torch.where(kernel > 0, torch.xlogy(kernel, kernel) - kernel * log_q, 0.0).sum(1).mean()


def log_stress(h: Tensor, xy: Tensor) -> Tensor:
    """Scale-free stress between embeddings (n, d) and coordinates (n, 2)."""
    i, j = torch.triu_indices(len(h), len(h), 1, device=h.device)
    true2 = squared_distance(xy, i, j)
    apart = true2 > 0  # coincident spots have no log distance
    own2 = squared_distance(h, i[apart], j[apart])
    ratio = 0.5 * ((own2 + 1e-8).log() - true2[apart].log())
    return (ratio - ratio.mean()).square().mean()


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """x, with the sign of its gradient changed."""
    reversed_: Tensor = _ReverseGradient.apply(x)
    return reversed_


def domain_mixing(h: Tensor, domain: Tensor, k: int = 15) -> float:
    """How well domains mix: share of other-domain points among the kNN, over its expectation.

    Args:
        h: (n, d) embeddings.
        domain: (n,) integers.
        k: neighbours.

    Returns:
        0 for separate domains, about 1 where the domain does not matter.  NaN for one domain.
    """
    n = len(h)
    d2 = _squared_distances(h.double()).fill_diagonal_(torch.inf)
    other = domain[:, None] != domain[None]
    expected = other.double().sum(1) / (n - 1)
    found = other.gather(1, d2.topk(min(k, n - 1), largest=False).indices).double().mean(1)
    return float(found.sum() / expected.sum()) if bool(other.any()) else float("nan")


def sampled_mixing(slides: Sequence[Tensor]) -> float:
    """:func:`domain_mixing` of every so many rows of each slide's H (n_s, d)."""
    shown = [x[:: max(1, len(x) // _MIXING_SPOTS)] for x in slides]
    thinning = -(-sum(map(len, shown)) // _MIXING_TOTAL)
    shown = [x[::thinning] for x in shown]
    domain = torch.cat([torch.full((len(x),), i) for i, x in enumerate(shown)])
    return domain_mixing(torch.cat(shown), domain)


def _squared_distances(x: Tensor) -> Tensor:
    """(n, n), differentiable, exactly 0 on the diagonal, never negative by more than rounding."""
    square = x.square().sum(1)
    d2 = square[:, None] + square[None] - 2 * x @ x.T
    off_diagonal = 1 - torch.eye(len(x), dtype=x.dtype, device=x.device)
    return F.relu(d2) * off_diagonal


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise UserError(
            f"need two matrices of one width and at least two rows each, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
