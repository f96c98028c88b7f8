"""What is written: a bundle superposed by its core."""

from __future__ import annotations

import torch
from protein_runs import (
    CA,
)

from common.align import aligned_rmsd
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.outputs import bundle, written_rmsf
from protein_cvae.geometry.frames import rotation_from_axis_angle


def test_a_bundle_is_superposed_by_its_core_in_the_templates_pose(protein: Ensemble) -> None:
    generator = torch.Generator().manual_seed(0)
    turns = rotation_from_axis_angle(torch.randn(6, 3, generator=generator))
    scattered = protein.coordinates @ turns[:, None].mT + torch.randn(6, 1, 1, 3) * 20
    core = torch.zeros(26, dtype=torch.bool)
    core[5:20] = True
    made = bundle(protein, scattered, core, protein.coordinates[2], "x", "y")
    ca = made.coordinates[:, core, CA].double()
    mean = ca.mean(0)
    # No superposition on the mean or on the template brings the core any nearer.
    here = (ca - mean).square().sum(-1).mean(-1).sqrt()
    assert torch.allclose(here, aligned_rmsd(ca, mean.expand_as(ca)), atol=1e-4)
    target = protein.coordinates[2, core, CA].double()
    gap = (mean - target).square().sum(-1).mean().sqrt()
    assert torch.allclose(gap, aligned_rmsd(mean, target), atol=1e-4)
    expected = (made.coordinates[:, :, CA] - made.coordinates[:, :, CA].mean(0)).norm(dim=-1)
    assert torch.allclose(written_rmsf(made), expected.square().mean(0).sqrt(), atol=1e-5)
