"""Loss terms against their formulas in NumPy, and the invariances that keep poses out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from spatial_ipa.encoder.losses import (
    coral,
    domain_mixing,
    log_stress,
    neighbour_kl,
    rbf_mmd,
    reverse_gradient,
    spatial_kernel,
    vicreg,
)


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_vicreg_equals_numpy() -> None:
    a, b = draw(20, 6, 0, 0.7), draw(20, 6, 1, 1.3)
    expected = ((a - b).numpy() ** 2).mean()
    for view in (a.numpy(), b.numpy()):
        cov = np.cov(view.T)
        expected += np.maximum(0, 1 - np.sqrt(np.diag(cov) + 1e-4)).mean()
        expected += (cov[~np.eye(6, dtype=bool)] ** 2).sum() / 6 / 25
    assert vicreg(a, b).item() == pytest.approx(expected, rel=1e-12)


def test_coral_equals_numpy_and_vanishes_on_itself() -> None:
    a, b = draw(20, 6, 0), draw(31, 6, 1, 2.0)
    expected = ((np.cov(a.T.numpy()) - np.cov(b.T.numpy())) ** 2).sum() / (4 * 36)
    assert coral(a, b).item() == pytest.approx(expected, rel=1e-12)
    assert coral(a, a + 3).item() == pytest.approx(0, abs=1e-20)  # means do not enter


def test_mmd_equals_numpy_and_vanishes_on_itself() -> None:
    a, b = draw(12, 4, 0), draw(17, 4, 1) + 1
    rows = np.concatenate([a.numpy(), b.numpy()])
    d2 = cdist(rows, rows, "sqeuclidean")
    k = np.mean([np.exp(-d2 / (m * d2.mean())) for m in (0.25, 1, 4)], axis=0)
    expected = k[:12, :12].mean() + k[12:, 12:].mean() - 2 * k[:12, 12:].mean()
    assert rbf_mmd(a, b).item() == pytest.approx(expected, rel=1e-9)
    assert rbf_mmd(a, a).item() == pytest.approx(0, abs=1e-12)
    assert rbf_mmd(a, b).item() > rbf_mmd(a, b - 1).item() > 0


def test_neighbour_kl_equals_numpy() -> None:
    h, xy = draw(40, 5, 0), draw(40, 2, 1)
    p = spatial_kernel(xy).numpy()
    logits = -cdist(h.numpy(), h.numpy(), "sqeuclidean") / (5 * 0.5)
    np.fill_diagonal(logits, -np.inf)
    q = np.exp(logits - logits.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    expected = sum(p[i, j] * np.log(p[i, j] / q[i, j]) for i, j in zip(*p.nonzero(), strict=True))
    assert neighbour_kl(h, torch.from_numpy(p), 0.5).item() == pytest.approx(expected / 40)


def test_spatial_kernel_rows_sum_to_one_without_self() -> None:
    p = spatial_kernel(draw(50, 2, 0))
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64))
    assert torch.equal(p.diagonal(), torch.zeros(50, dtype=torch.float64))


def test_log_stress_equals_numpy_and_is_zero_for_the_coordinates_themselves() -> None:
    h, xy = draw(30, 5, 0), draw(30, 2, 1)
    ratio = np.log(pdist(h.numpy())) - np.log(pdist(xy.numpy()))
    assert log_stress(h, xy).item() == pytest.approx(ratio.var(), rel=1e-6)
    assert log_stress(torch.nn.functional.pad(7 * xy, (0, 3)), xy).item() < 1e-6


def test_spatial_terms_do_not_see_the_pose() -> None:
    h, xy = draw(40, 5, 0), draw(40, 2, 1)
    turn = torch.tensor([[0.6, -0.8], [-0.8, -0.6]], dtype=torch.float64)
    moved = 3.7 * xy @ turn + 11
    torch.testing.assert_close(log_stress(h, moved), log_stress(h, xy))
    torch.testing.assert_close(spatial_kernel(moved), spatial_kernel(xy), atol=1e-6, rtol=1e-5)


def test_gradients() -> None:
    a, b, xy = draw(25, 4, 0), draw(25, 4, 1), draw(25, 2, 2)
    kernel = spatial_kernel(xy)
    for loss in (
        lambda h: vicreg(h, b),
        lambda h: coral(h, b),
        lambda h: neighbour_kl(h, kernel, 0.3),
        lambda h: log_stress(h, xy),
    ):
        assert torch.autograd.gradcheck(loss, (a.clone().requires_grad_(),))


def test_mmd_gradient_with_the_bandwidth_held() -> None:
    """The bandwidth carries no gradient, so the reference differentiates at a fixed one."""
    a, b = draw(9, 3, 0).requires_grad_(), draw(8, 3, 1)
    (gradient,) = torch.autograd.grad(rbf_mmd(a, b), a)
    rows = torch.cat([a, b])
    scale = torch.cdist(rows, rows).square().mean().detach()

    def reference(x: torch.Tensor) -> torch.Tensor:
        z = torch.cat([x, b])
        d2 = (z[:, None] - z[None]).square().sum(-1)
        k = torch.stack([(-d2 / (m * scale)).exp() for m in (0.25, 1.0, 4.0)]).mean(0)
        return k[:9, :9].mean() + k[9:, 9:].mean() - 2 * k[:9, 9:].mean()

    (expected,) = torch.autograd.grad(reference(a), a)
    torch.testing.assert_close(gradient, expected)


def test_reversed_gradient() -> None:
    x = draw(3, 2, 0).requires_grad_()
    (reverse_gradient(x) * 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -2.0))
    assert torch.equal(reverse_gradient(x), x)


def test_domain_mixing_is_zero_for_separate_and_one_for_mixed_domains() -> None:
    domain = torch.arange(400) % 2
    h = draw(400, 3, 0)
    assert domain_mixing(h, domain) == pytest.approx(1, abs=0.06)
    assert domain_mixing(h + 100 * domain[:, None], domain) == 0
    assert np.isnan(domain_mixing(h, torch.zeros(400, dtype=torch.int64)))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one width"):
        coral(draw(5, 3, 0), draw(5, 4, 0))
    with pytest.raises(ValueError, match="one shape"):
        vicreg(draw(5, 3, 0), draw(6, 3, 0))
    with pytest.raises(ValueError, match="tau"):
        neighbour_kl(draw(5, 3, 0), torch.eye(5), 0.0)
