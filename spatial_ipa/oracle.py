"""The floor of every table: Adam on the coordinates themselves, without a model (spec §3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spatial_ipa.losses import GeometryTerms, collapse_diagnostics, geometry_terms
from spatial_ipa.operators import gauge_fix
from spatial_ipa.targets import Target


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
    target: Target, generator: torch.Generator, steps: int = 2000, lr: float = 0.05
) -> OracleResult:
    """Minimise the energy of a union of targets from random normal coordinates.

    Adam with a cosine decay of the rate; the graphs do not interact, so a union is optimised as its
    members would be (Adam scales each coordinate by itself).  The true coordinates are used only
    through the loss.

    Args:
        target: one graph or a union.
        generator: of the start.
        steps: Adam steps.
        lr: initial rate, in RMS radii.
    """
    x = torch.randn(target.xy.shape, generator=generator).to(target.xy).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        geometry_terms(x, target).energy(1.0).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        final = gauge_fix(x, target.graph, target.num_graphs)
        terms = geometry_terms(final, target)
        ratio, median = collapse_diagnostics(
            final, target.graph, target.num_graphs, target.random_pairs
        )
    return OracleResult(final, terms, terms.energy(1.0), ratio, median)
