"""generate: modes, what they depend on, valid geometry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mdtraj
import pytest
import torch
from protein_runs import (
    CA,
    all_inside,
    made_of,
    tiny_network,
)

from protein_cvae.data.batch import collate
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import ReadingOptions, prepare, read_input
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import check_validity
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.superposition import mean_rmsd, pairwise_rmsd
from protein_cvae.io import write_ensemble
from protein_cvae.io.formats.fasta import sequence_ensemble
from protein_cvae.model.network import ProteinCVAE

DRAWING = ["resample", "around", "prior", "sequence"]


@pytest.mark.parametrize("mode", DRAWING)
def test_conformers_are_valid_reproducible_and_new(
    network: ProteinCVAE, protein: Ensemble, mode: str
) -> None:
    options = GenerateOptions(mode, count=4)  # type: ignore[arg-type]
    made = generate(network, protein, options)
    assert made.coordinates.shape == (4, 26, 3, 3)
    assert made.model_numbers == (1, 2, 3, 4)
    assert made.sequence == protein.sequence
    assert all_inside(made)
    again = generate(network, protein, options)
    assert torch.equal(made.coordinates, again.coordinates)
    other = generate(network, protein, dataclasses.replace(options, seed=1))
    rmsd = pairwise_rmsd(made.coordinates[:, :, CA], other.coordinates[:, :, CA])
    assert rmsd.min() > 1e-3
    rmsd = pairwise_rmsd(made.coordinates[:, :, CA], made.coordinates[:, :, CA])
    assert rmsd[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


def test_the_global_generator_and_the_modules_mode_are_left_alone(
    protein: Ensemble,
) -> None:
    network = tiny_network(dropout=0.5)  # type: ignore[arg-type]
    network.train()
    state = torch.get_rng_state()
    first = generate(network, protein, GenerateOptions("prior", count=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    network.eval()
    second = generate(network, protein, GenerateOptions("prior", count=2))
    assert torch.equal(first.coordinates, second.coordinates)


def test_an_ensemble_without_bandwidth_repeats_its_models(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    made = generate(
        network, protein, GenerateOptions("resample", count=6, bandwidth=0, finish=False)
    )
    prepared = prepare(protein, None)
    network.eval()
    with torch.no_grad():
        batch = collate([prepared.item(m, prepared.central) for m in range(6)])
        expected = network.reconstruct(batch)[0].coordinates
    rmsd = pairwise_rmsd(made.coordinates[:, :, CA], expected[:, :, CA])
    assert rmsd.amin(0).max() < 1e-3
    assert sorted(rmsd.argmin(1).tolist()) == list(range(6))  # each once


def test_temperature_0_gives_one_conformer(network: ProteinCVAE, protein: Ensemble) -> None:
    for mode in DRAWING:
        options = GenerateOptions(mode, count=3, temperature=0, finish=False)  # type: ignore[arg-type]
        assert mean_rmsd(generate(network, protein, options).coordinates[:, :, CA]) < 1e-3


def test_around_draws_from_the_posterior_of_the_model_that_is_named(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    prepared = prepare(protein, None)
    named = (prepared.central + 1) % 6
    numbered = made_of(protein, model_numbers=(11, 12, 13, 14, 15, 16))
    options = GenerateOptions("around", count=2, model=11 + named, temperature=0, finish=False)
    made = generate(network, numbered, options)
    network.eval()
    with torch.no_grad():
        level = torch.full((1, 2), 0.1)  # of the posterior, which the decoder is told
        item = prepared.item(named, prepared.central)
        expected = network.reconstruct(item, level)[0].coordinates
    assert pairwise_rmsd(made.coordinates[:, :, CA], expected[:, :, CA]).max() < 1e-3


def test_the_prior_has_the_template_that_is_named_and_its_pose(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    for number in (1, 5):
        options = GenerateOptions("prior", count=3, model=number, temperature=0)
        made = generate(network, protein, options).coordinates[:, :, CA]
        # An untrained decoder hardly moves its template.
        gap = (made - protein.coordinates[number - 1, :, CA]).square().sum(-1).mean(-1).sqrt()
        assert gap.max() < 1.0


def test_nothing_depends_on_the_pose_of_the_input(network: ProteinCVAE, protein: Ensemble) -> None:
    turn = rotation_from_axis_angle(torch.tensor([0.3, -1.1, 0.7]))
    moved = made_of(protein, coordinates=protein.coordinates @ turn.mT + 7.0)
    for mode in ("resample", "around", "prior"):
        options = GenerateOptions(mode, 3, finish=False)  # type: ignore[arg-type]
        first, second = (generate(network, e, options).coordinates for e in (protein, moved))
        assert torch.allclose(first @ turn.mT + 7.0, second, atol=2e-3)


def test_a_sequence_uses_no_structure(network: ProteinCVAE, protein: Ensemble) -> None:
    options = GenerateOptions("sequence", count=2)
    bare = sequence_ensemble(protein.sequence)
    assert bare.residue_numbers.tolist() == list(range(1, 27))
    assert bare.chain_ids == ("A",)
    made = generate(network, bare, options)
    assert torch.allclose(
        made.coordinates, generate(network, protein, options).coordinates, atol=1e-5
    )
    assert all_inside(made)


def test_cis_peptides_of_the_template_stay_cis(network: ProteinCVAE, protein: Ensemble) -> None:
    angles, _ = backbone_dihedrals(
        protein.coordinates.double(), protein.bonded.expand(protein.mask.shape), protein.mask
    )
    omega = torch.full_like(angles.omega, torch.pi)
    omega[:, 12] = 0.0
    torsions = Torsions(angles.phi, angles.psi, omega)
    bent = build_backbone(torsions, protein.bonded.expand(protein.mask.shape)).float()
    cis = (omega == 0)[:2]
    ensemble = made_of(protein, coordinates=bent)
    for options in (GenerateOptions("resample", count=2), GenerateOptions("prior", count=2)):
        assert all_inside(generate(network, ensemble, options), cis)
    first, second = (ensemble.select_models([i]) for i in (0, 1))
    path = interpolate(network, first, second, InterpolateOptions(steps=2))
    assert all_inside(path, cis)


def test_length_500_in_two_chains(network: ProteinCVAE) -> None:
    generator = torch.Generator().manual_seed(0)
    shape, length = (3, 500), 500
    angles = torch.deg2rad(torch.tensor([-62.0, -43.0]))
    angles = angles + 0.05 * torch.randn(*shape, 2, generator=generator)
    torsions = Torsions(angles[..., 0], angles[..., 1], torch.full(shape, torch.pi))
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[[299, 499]] = False
    coordinates = build_backbone(torsions, bonded.expand(shape))
    coordinates[:, 300:] += torch.tensor([0.0, 0.0, 30.0])
    long = Ensemble(
        name="long",
        coordinates=coordinates,
        mask=torch.ones(shape, dtype=torch.bool),
        sequence="A" * length,
        chain_index=(torch.arange(length) >= 300).long(),
        chain_ids=("A", "B"),
        residue_numbers=torch.arange(1, 501),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="helices",
        model_numbers=(1, 2, 3),
    )
    made = generate(network, long, GenerateOptions("resample", count=2))
    assert made.chain_ids == ("A", "B")
    assert all_inside(made)
    assert not bool(check_validity(made).broken.any())


def test_a_trajectory_folder_is_an_ensemble(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    write_ensemble(tmp_path / "topology.pdb", protein.select_models([0]))
    write_ensemble(tmp_path / "all.pdb", protein)
    mdtraj.load(str(tmp_path / "all.pdb")).save_xtc(str(tmp_path / "frames.xtc"))
    (tmp_path / "all.pdb").unlink()
    frames = read_input(tmp_path, "input", ReadingOptions(max_frames=4))
    assert frames.num_models == 4
    assert generate(network, frames, GenerateOptions(count=2)).num_models == 2
