"""The oracle finds a small layout again from a random start; its rows are fair draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes

from spatial_ipa.losses import geometry_terms
from spatial_ipa.oracle import OracleResult, _draw_rows, minimise
from spatial_ipa.targets import Target, build_target, union_targets

N = 60


def target_of(n: int, seed: int = 0) -> Target:
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=generator) * torch.tensor([3.0, 2.0])
    return build_target(xy, generator)


def solve(target: Target, seed: int = 0, steps: int = 400) -> OracleResult:
    return minimise(target, torch.Generator().manual_seed(seed), steps)


@pytest.fixture(scope="module")
def solved() -> OracleResult:
    return solve(target_of(N))


def test_reaches_a_small_error_without_collapse(solved: OracleResult) -> None:
    """A random layout scores above 1 here; the floor of the metric is 0."""
    target = target_of(N)
    start = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    assert geometry_terms(start, target).e_geo.item() > 1
    assert solved.terms.e_geo.item() < 0.01
    assert procrustes(target.xy.numpy(), solved.x.numpy())[2] < 0.01
    assert solved.eigenvalue_ratio.item() > 0.1
    assert solved.median_distance.item() > 0.5


def test_result_is_consistent(solved: OracleResult) -> None:
    """Gauge-fixed; scored on all rows of the target, although steps saw some."""
    torch.testing.assert_close(solved.x.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    assert solved.x.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)
    terms = geometry_terms(solved.x, target_of(N))
    torch.testing.assert_close(terms.rw, solved.terms.rw)
    torch.testing.assert_close(
        solved.energy, terms.rw + 0.1 * terms.stress + 0.01 * (terms.repulsion + terms.entropy)
    )


def test_deterministic_in_the_generator() -> None:
    first, again, other = (solve(target_of(40), seed, 20) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_does_not_touch_the_target() -> None:
    target, clean = target_of(40), target_of(40)
    solve(target, steps=5)
    assert torch.equal(target.xy, clean.xy)
    assert torch.equal(target.rows, clean.rows)


def test_rows_are_drawn_per_graph() -> None:
    """As many as asked for of each graph, all of a graph that has fewer, none twice, ascending."""
    target = union_targets([target_of(n, n) for n in (40, 8, 100)])
    rows = _draw_rows(target, 10, torch.Generator().manual_seed(0))
    assert bool((rows[1:] > rows[:-1]).all())
    assert torch.bincount(target.graph[rows]).tolist() == [10, 8, 10]
    every = _draw_rows(target, 100, torch.Generator().manual_seed(0))
    assert torch.equal(every, torch.arange(148))


def test_rows_are_uniform() -> None:
    """Each node of a graph is drawn equally often: within five binomial standard deviations."""
    target = union_targets([target_of(n, n) for n in (40, 100)])
    generator = torch.Generator().manual_seed(0)
    draws = 2000
    count = np.zeros(140)
    for _ in range(draws):
        count[_draw_rows(target, 10, generator).numpy()] += 1
    for part, share in ((count[:40], 0.25), (count[40:], 0.1)):
        z = (part - draws * share) / np.sqrt(draws * share * (1 - share))
        assert np.abs(z).max() < 5
        assert 0.5 < z.std() < 1.5  # random, not a fixed rotation through the nodes


def test_members_of_a_union_do_not_meet() -> None:
    """A union's members reach the same floor as one alone, from one joint run."""
    found = solve(union_targets([target_of(50, 1), target_of(40, 2)]))
    assert found.terms.e_geo.shape == (2,)
    assert found.terms.e_geo.max() < 0.02
    for part in (found.x[:50], found.x[50:]):
        torch.testing.assert_close(part.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
