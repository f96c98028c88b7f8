"""Spread that is told: what the conformers have of it, and each step of the way there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from protein_runs import CA, all_inside

from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.outputs import written_rmsf
from protein_cvae.generation.spread import SpreadOptions
from protein_cvae.generation.told import (
    bend,
    even_motion,
    fit_scale,
    local_rotation,
    stiff_part,
)
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.geometry.superposition import mean_rmsd
from protein_cvae.model.network import ProteinCVAE

LENGTH = 26


def profile(low: float, high: float) -> np.ndarray:
    """A stiff middle with soft ends, Å."""
    place = np.abs(np.linspace(-1, 1, LENGTH))
    return low + (high - low) * np.maximum(place - 0.4, 0) / 0.6


def written(folder: Path, ensemble: Ensemble, rmsf: np.ndarray) -> str:
    path = folder / "rmsf.csv"
    lines = [
        f"A,{int(number)},{value:.4f}"
        for number, value in zip(ensemble.residue_numbers, rmsf, strict=True)
    ]
    path.write_text("\n".join(["chain,residue,rmsf", *lines]))
    return str(path)


def told(path: str, count: int, **options: object) -> GenerateOptions:
    return GenerateOptions("prior", count, spread=SpreadOptions(file=path), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(0.3, 1.5), (0.5, 10.0)])
def test_conformers_have_the_rmsf_that_is_told_after_finishing(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path, low: float, high: float
) -> None:
    wanted = profile(low, high)
    made = generate(network, protein, told(written(tmp_path, protein, wanted), 24))
    # As written, without any superposition of ours.
    ca = made.coordinates[:, :, CA].double().numpy()
    found = np.sqrt(((ca - ca.mean(0)) ** 2).sum(-1).mean(0))
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert np.sqrt(np.mean(np.log(found / wanted) ** 2)) < 0.1
    assert all_inside(made)
    untold = written_rmsf(generate(network, protein, GenerateOptions("prior", 24)))
    assert np.sqrt(np.mean(np.log(untold.numpy() / wanted) ** 2)) > 0.2


def test_more_conformers_than_the_scale_is_found_on_have_the_rmsf_too(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    wanted = profile(0.4, 3.0)
    options = told(written(tmp_path, protein, wanted), 64)
    found = written_rmsf(generate(network, protein, options)).numpy()
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert np.abs(np.log(found / wanted)).mean() < 0.15


@pytest.mark.parametrize("rmsd", [0.4, 2.5])
def test_conformers_have_the_mean_pairwise_rmsd_that_is_told(
    network: ProteinCVAE, protein: Ensemble, rmsd: float
) -> None:
    made = generate(network, protein, GenerateOptions("prior", 20, spread=SpreadOptions(rmsd=rmsd)))
    assert mean_rmsd(made.coordinates[:, :, CA]) == pytest.approx(rmsd, rel=0.05)
    assert all_inside(made)


def test_temperature_is_a_factor_on_what_is_told(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    wanted = profile(0.4, 2.0)
    path = written(tmp_path, protein, wanted)
    half = written_rmsf(generate(network, protein, told(path, 20, temperature=0.5)))
    assert float((half / torch.from_numpy(wanted)).log().mean().exp()) == pytest.approx(
        0.5, rel=0.05
    )
    still = generate(network, protein, told(path, 3, temperature=0.0))
    assert mean_rmsd(still.coordinates[:, :, CA]) < 1e-3


def test_the_same_seed_gives_the_same_and_few_conformers_are_the_first_of_more(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    path = written(tmp_path, protein, profile(0.4, 2.0))
    first, again = (generate(network, protein, told(path, 3)) for _ in range(2))
    assert torch.equal(first.coordinates, again.coordinates)
    one = generate(network, protein, told(path, 1))
    assert one.num_models == 1
    other = generate(network, protein, dataclasses.replace(told(path, 3), seed=1))
    assert float((first.coordinates - other.coordinates).abs().max()) > 1e-2


def test_a_fixed_point_finds_the_scale_of_a_response_that_saturates() -> None:
    target = torch.tensor([0.5, 1.0, 2.0])
    tried = []

    def draw(scale: torch.Tensor) -> torch.Tensor:
        tried.append(scale)
        return 4 * (1 - (-scale / 4).exp()) + 0.02

    scale = fit_scale(draw, target, target)
    expected = -4 * torch.log1p(-(target - 0.02) / 4)
    assert torch.allclose(scale, expected, rtol=0.05)
    assert len(tried) > 1


def test_a_fixed_point_that_cannot_be_reached_gives_the_nearest_round() -> None:
    target = torch.tensor([3.0])
    scale = fit_scale(lambda s: 2.0 - (s - 4.0).abs(), torch.tensor([4.0]), target)
    assert scale.tolist() == [4.0]


def test_the_amplitude_of_a_draw_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    moved = torch.randn(6, 200, 3, generator=generator, dtype=torch.float64)
    link = torch.ones(199, dtype=torch.bool)
    link[90] = False
    even = even_motion(moved, link)
    amplitude = torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0, 30.0], dtype=torch.float64)
    again = even_motion(amplitude[:, None, None] * moved, link)
    assert torch.allclose(again / again.norm(), even / even.norm(), rtol=1e-4)
    size = again.square().mean((1, 2)).sqrt()
    assert float(size.max() / size.min()) < 1.1


def test_a_bent_chain_keeps_its_links_its_breaks_reach_and_its_stiff_part() -> None:
    turn = torch.arange(40, dtype=torch.float64)
    helix = torch.stack([2.3 * (1.745 * turn).cos(), 2.3 * (1.745 * turn).sin(), 1.5 * turn], -1)
    link = torch.ones(39, dtype=torch.bool)
    link[19] = False
    length = (helix[1:] - helix[:-1]).norm(dim=-1)
    reach = torch.full((39,), 8.4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    shape = torch.linspace(0, 1, 40, dtype=torch.float64) ** 4
    motion = 25 * shape[:, None] * torch.randn(5, 1, 3, generator=generator, dtype=torch.float64)
    bent = bend(helix, motion, link, reach, shape.square())
    step = (bent[:, 1:] - bent[:, :-1]).norm(dim=-1)
    plain = ((helix + motion)[:, 1:] - (helix + motion)[:, :-1]).norm(dim=-1)
    assert float((plain - length)[:, link].abs().max()) > 2.0
    assert float((step - length)[:, link].abs().max()) < 0.4
    assert float(step[:, 19].max()) < 8.6
    assert float((bent - helix)[:, :8].norm(dim=-1).max()) < 0.1
    moved = (bent - helix)[:, -1].norm(dim=-1)
    assert float((moved / motion[:, -1].norm(dim=-1)).min()) > 0.5


def test_residues_turn_as_their_surroundings_do() -> None:
    generator = torch.Generator().manual_seed(2)
    ca = 5 * torch.randn(30, 3, generator=generator, dtype=torch.float64)
    link = torch.ones(29, dtype=torch.bool)
    link[14] = False  # two bodies, each with a rotation of its own
    turns = rotation_from_axis_angle(
        torch.tensor([[0.3, -1.0, 0.4], [2.0, 0.1, 0.2]], dtype=torch.float64)
    )
    body = (torch.arange(30) > 14).long()
    moved = (turns[body] @ ca[..., None])[..., 0] + torch.tensor([1.0, 2.0, 3.0])
    found = local_rotation(ca, moved[None], link)
    assert torch.allclose(found[0], turns[body], atol=1e-6)


def test_the_stiff_part_is_what_moves_little() -> None:
    rmsf = torch.tensor([8.0, 3.0, 0.5, 0.4, 0.5, 0.6, 0.5, 0.4, 2.0])
    assert stiff_part(rmsf).tolist() == [False, False, *6 * [True], False]
    assert bool(stiff_part(torch.tensor([0.1, 5.0, 6.0, 7.0, 8.0, 9.0, 0.2])).all())
