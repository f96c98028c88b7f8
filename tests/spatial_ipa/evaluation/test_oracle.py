"""The oracle finds a small layout again from a random start; its rows are fair draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes

from spatial_ipa.evaluation.oracle import (
    _STARTS,
    OracleResult,
    _draw_rows,
    minimise,
    minimise_slide,
)
from spatial_ipa.model.losses import geometry_terms
from spatial_ipa.model.targets import Target, build_target, union_targets

N = 60


def target_of(n: int, seed: int = 0) -> Target:
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=generator) * torch.tensor([3.0, 2.0])
    return build_target(xy, generator)


def solve(target: Target, seed: int = 0, steps: int = 400) -> OracleResult:
    return minimise(target, torch.Generator().manual_seed(seed), steps)


@pytest.fixture(scope="module")
def solved() -> OracleResult:
    """The same target from as many random starts as a slide gets, as one union."""
    return solve(union_targets([target_of(N)] * _STARTS))


def test_reaches_a_small_error_without_collapse(solved: OracleResult) -> None:
    """The best start finds the layout again; no start collapses or stays where it was.

    Half of the starts reach 6e-4 or less, the others folded layouts, local minima, at 0.02 to 0.04.
    Random layouts score above 1.
    """
    target = target_of(N)
    start = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    assert geometry_terms(start, target).e_geo.item() > 1
    e_geo = solved.terms.e_geo
    assert e_geo.min() < 1e-3
    assert e_geo.max() < 0.1
    best = solved.x.view(_STARTS, N, 2)[int(e_geo.argmin())]
    assert procrustes(target.xy.numpy(), best.numpy())[2] < 0.01
    assert solved.eigenvalue_ratio.min() > 0.1
    assert solved.median_distance.min() > 0.5


def test_result_is_consistent(solved: OracleResult) -> None:
    """Gauge-fixed; scored on all rows of the target, although steps saw some."""
    x = solved.x.view(_STARTS, N, 2)
    torch.testing.assert_close(x.mean(1), torch.zeros(_STARTS, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.square().sum(2).mean(1), torch.ones(_STARTS))
    terms = [geometry_terms(layout, target_of(N)) for layout in x]
    torch.testing.assert_close(
        torch.cat([t["rw"] for t in terms]), solved.terms["rw"], rtol=1e-4, atol=1e-6
    )
    energy = [t["rw"] + 0.1 * t["stress"] + 0.01 * (t["repulsion"] + t["entropy"]) for t in terms]
    torch.testing.assert_close(solved.energy, torch.cat(energy), rtol=1e-4, atol=1e-6)


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


def test_members_of_a_union_may_differ_in_size() -> None:
    found = solve(union_targets([target_of(50, 1), target_of(40, 2)]))
    assert found.terms.e_geo.shape == (2,)
    assert found.terms.e_geo.max() < 0.1
    for part in (found.x[:50], found.x[50:]):
        torch.testing.assert_close(part.mean(0), torch.zeros(2), rtol=0, atol=1e-6)


def test_given_start_is_used_and_kept() -> None:
    """No step from the truth leaves it there, up to the gauge; the caller's tensor is not moved."""
    target = target_of(40)
    start = target.xy.clone()
    found = minimise(target, torch.Generator().manual_seed(0), 0, start=start)
    torch.testing.assert_close(found.x, target.xy)
    minimise(target, torch.Generator().manual_seed(0), 3, start=start)
    assert torch.equal(start, target.xy)


def test_slide_of_many_cells_does_not_fold() -> None:
    """Coarse to fine finds a large layout again; the same number of steps from random does not."""
    target = target_of(800)
    found = minimise_slide(target, torch.Generator().manual_seed(0), 400, 60)
    assert found.x.shape == (800, 2)
    assert found.terms.e_geo.item() < 5e-3
    assert procrustes(target.xy.numpy(), found.x.numpy())[2] < 0.01
    direct = minimise(target, torch.Generator().manual_seed(0), 60)
    assert direct.terms.e_geo.item() > 10 * found.terms.e_geo.item()


def test_small_slide_is_the_best_of_the_starts(solved: OracleResult) -> None:
    """The fixture has the same generator, so the same starts; some of them end folded."""
    found = minimise_slide(target_of(N), torch.Generator().manual_seed(0), 400)
    torch.testing.assert_close(found.energy, solved.energy.min()[None])
    assert solved.energy.max() > 10 * found.energy
    # Scoring fixes the gauge of a layout that has it: nothing turns or scales again.
    best = solved.x.view(_STARTS, N, 2)[solved.energy.argmin()]
    torch.testing.assert_close(found.x, best)


def test_slide_refuses_a_union() -> None:
    target = union_targets([target_of(20, 1), target_of(20, 2)])
    with pytest.raises(ValueError, match="one graph, got a union of 2"):
        minimise_slide(target, torch.Generator().manual_seed(0), 5)
