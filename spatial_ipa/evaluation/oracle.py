"""The floor of every table: Adam on the coordinates themselves, without a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.errors import UserError
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.model.losses import E_GEO, GeometryTerms, collapse_diagnostics, geometry_terms
from spatial_ipa.model.targets import Target, build_target, union_targets

# Share of the steps over which the weight of the walks rises from 0 to 1.
_RAMP = 0.5
# Most cells of a slide that are laid out from random starts, as in the largest miniset.
_COARSE_CELLS = 384
# Random starts, as one union; the best is kept: on seqfish every other one folds.
_STARTS = 8
# Standard deviation of the shifts that part the cells starting from one place, in RMS radii.
_SHIFT = 0.02


@dataclass(frozen=True)
class OracleResult:
    """Attributes (B graphs, N nodes):

    x: (N, 2) gauge-fixed coordinates found.
    terms: per-graph loss terms there.
    energy: (B,) total energy with w_rw = 1.
    eigenvalue_ratio, median_distance: (B,) collapse diagnostics.
    """

    x: Tensor
    terms: GeometryTerms
    energy: Tensor
    eigenvalue_ratio: Tensor
    median_distance: Tensor


def minimise(
    target: Target,
    generator: torch.Generator,
    steps: int = 2000,
    lr: float = 0.05,
    rows_per_step: int = 64,
    start: Tensor | None = None,
) -> OracleResult:
    """Minimise the energy of a union of targets from random normal or given coordinates.

    Adam with a cosine decay of the rate; the graphs do not interact, so a union is optimised as its
    members would be (Adam scales each coordinate by itself).  The true coordinates are used only
    through the loss.

    Args:
        target: one graph or a union.
        generator: of the start and of the rows.
        steps: Adam steps.
        lr: initial rate, in RMS radii.
        rows_per_step: rows of each graph whose walks enter a step, drawn anew each time: an
            unbiased estimate of the loss at a fraction of its cost.  The result is scored on all
            rows of ``target``.
        start: (N, 2) coordinates to start from; random normal ones if not given.
    """
    if start is None:
        start = torch.randn(target.xy.shape, generator=generator)
    x = start.detach().to(target.xy, copy=True).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        # Distances unfold the random start before walks, which only see neighbours, can freeze it.
        w_rw = min(1.0, step / (_RAMP * steps))
        optimizer.zero_grad()
        drawn = replace(target, rows=_draw_rows(target, rows_per_step, generator))
        geometry_terms(x, drawn).energy(replace(E_GEO, rw=w_rw)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return _score(x, target)


def minimise_slide(
    target: Target, generator: torch.Generator, steps: int = 2000, refine_steps: int = 300
) -> OracleResult:
    """Minimise the energy of one slide, of any size, coarse to fine.

    From a random start 2,000 steps leave some 3,000 cells folded (E_geo 0.05 to 0.28 on dlpfc and
    seqfish), and now and then a few hundred (0.01 to 0.03 in 4 of 54 runs on her2st).  So several
    starts are minimised and the best is kept; on more cells than the largest miniset has, that is
    done for a random subset, and then every cell starts where the cell of the subset nearest to it
    in the tissue came to lie.

    Args:
        target: one graph.
        generator: of the subset, the starts and the rows.
        steps: Adam steps from the random starts.
        refine_steps: Adam steps on all cells after those on a subset.

    Raises:
        ValueError: if ``target`` is a union.
    """
    if target.num_graphs != 1:
        raise UserError(f"minimise_slide takes one graph, got a union of {target.num_graphs}")
    if len(target.graph) <= _COARSE_CELLS:
        return _score(_best_of_starts(target, generator, steps), target)
    chosen = target.xy[_draw_rows(target, _COARSE_CELLS, generator)]
    coarse = _best_of_starts(build_target(chosen, generator), generator, steps)
    start = coarse[torch.cdist(target.xy, chosen).argmin(1)]
    shift = torch.randn(start.shape, generator=generator).to(start)
    return minimise(target, generator, refine_steps, start=start + _SHIFT * shift)


def _best_of_starts(target: Target, generator: torch.Generator, steps: int) -> Tensor:
    """(n, 2): the layout of lowest energy of one graph from :data:`_STARTS` random starts."""
    copies = union_targets([target] * _STARTS)
    found = minimise(copies, generator, steps)
    return found.x[copies.graph == found.energy.argmin()]


def _score(x: Tensor, target: Target) -> OracleResult:
    with torch.no_grad():
        final = gauge_fix(x, target.graph, target.num_graphs)
        terms = geometry_terms(final, target)
        ratio, median = collapse_diagnostics(
            final, target.graph, target.num_graphs, target.random_pairs
        )
    return OracleResult(final, terms, terms.energy(E_GEO), ratio, median)


def _draw_rows(target: Target, count: int, generator: torch.Generator) -> Tensor:
    """(M,) ascending: up to ``count`` nodes of each graph, uniformly."""
    order = torch.argsort(torch.rand(len(target.graph), generator=generator).to(target.xy.device))
    order = order[torch.argsort(target.graph[order], stable=True)]  # random within each graph
    size = torch.bincount(target.graph, minlength=target.num_graphs)
    rank = (
        torch.arange(len(order), device=order.device) - (size.cumsum(0) - size)[target.graph[order]]
    )
    return order[rank < count].sort().values
