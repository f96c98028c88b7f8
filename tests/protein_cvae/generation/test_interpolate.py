"""interpolate: a path from one model to another."""

from __future__ import annotations

import pytest
import torch
from protein_runs import (
    CA,
    all_inside,
)

from common.align import aligned_rmsd
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.inputs import prepare
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.model import sampling
from protein_cvae.model.network import ProteinCVAE


@pytest.mark.parametrize("templates", ["both", "first"])
def test_a_path_goes_from_one_end_to_the_other_in_even_valid_steps(
    network: ProteinCVAE, protein: Ensemble, templates: str
) -> None:
    first, second = protein.select_models([0]), protein.select_models([3])
    options = InterpolateOptions(steps=9, templates=templates)  # type: ignore[arg-type]
    path = interpolate(network, first, second, options)
    assert path.num_models == 9
    assert all_inside(path)
    ca = path.coordinates[:, :, CA]
    ends = torch.cat([first.coordinates, second.coordinates])[:, :, CA]
    direct = float(aligned_rmsd(ends[0], ends[1]))
    assert aligned_rmsd(ca[[0, -1]], ends).max() < 0.35 * direct
    steps = aligned_rmsd(ca[1:], ca[:-1])
    assert steps.max() < 3 * direct / 8
    # Each step leaves the start and comes nearer to the end.
    assert (aligned_rmsd(ca, ca[:1].expand_as(ca)).diff() > 0).all()
    assert (aligned_rmsd(ca, ca[-1:].expand_as(ca)).diff() < 0).all()


def test_a_path_read_backwards_is_the_path_between_exchanged_ends(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    first, second = protein.select_models([0]), protein.select_models([3])
    options = InterpolateOptions(steps=4, finish=False)
    there = interpolate(network, first, second, options).coordinates[:, :, CA]
    back = interpolate(network, second, first, options).coordinates[:, :, CA]
    assert aligned_rmsd(there, back.flip(0)).max() < 2e-3


def test_one_template_is_the_straight_path_in_latents(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    first, second = protein.select_models([0]), protein.select_models([3])
    options = InterpolateOptions(steps=5, templates="first", finish=False)
    path = interpolate(network, first, second, options)
    pair = prepare(protein.select_models([0, 3]), None)
    network.eval()
    latents = [sampling.posterior_means(network, pair, [i], 0) for i in (0, 1)]
    straight = sampling.interpolate(latents[0], latents[1], 5)
    expected = sampling.decode(network, pair.item(0, 0), straight, None)
    assert aligned_rmsd(path.coordinates[:, :, CA], expected[:, :, CA]).max() < 2e-3
