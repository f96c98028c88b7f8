"""generate, interpolate, encode: as Python calls and through the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import mdtraj
import numpy as np
import pytest
import torch
import yaml
from Bio.PDB import MMCIFParser, PDBParser
from lightning.pytorch.demos.boring_classes import BoringModel

from common.align import aligned_rmsd
from common.cli import main as cli
from protein_cvae.data.batch import collate
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.encode import EncodeDataModule
from protein_cvae.generation.commands.generate import GenerateDataModule
from protein_cvae.generation.commands.interpolate import InterpolateDataModule, PathEnds
from protein_cvae.generation.encode import encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import ReadingOptions, prepare, read_input, sequence_ensemble
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import bundle, check_validity, written_rmsf
from protein_cvae.geometry.dihedrals import Torsions, backbone_dihedrals
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.projection import inside_tolerance
from protein_cvae.geometry.superposition import mean_rmsd, pairwise_rmsd
from protein_cvae.io import read_structure, write_ensemble
from protein_cvae.model import sampling
from protein_cvae.model.kl import kl_terms
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

# The checkpoint brings its sizes in place of the defaults.
pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")
ROOT = Path(__file__).resolve().parents[3]
CA = 1
Command = Callable[..., Path]
SIZES = {
    "width": 16, "layers": 1, "condition_layers": 1, "heads": 2, "feed_forward": 16,
    "d_global": 6, "d_local": 10, "hidden": 8, "decoder_layers": 1, "chain_neighbors": 4,
    "spatial_neighbors": 6,
}  # fmt: skip
# Options of the tasks that belong to a group.
GROUPS = {
    "options": ("mode", "count", "model", "temperature", "bandwidth", "seed", "finish", "steps"),
    "ends": ("second", "first_model", "second_model"),
    "reading": ("chains", "incomplete", "max_frames"),
}
DRAWING = ["ensemble", "around", "prior", "sequence"]


def tiny_module(**options: int) -> ProteinCVAEModule:
    torch.manual_seed(0)
    return ProteinCVAEModule(NetworkSettings(**(SIZES | options)))  # type: ignore[arg-type]


def tiny_network(**options: int) -> ProteinCVAE:
    return tiny_module(**options).model


@pytest.fixture(scope="module")
def network() -> ProteinCVAE:
    return tiny_network()


@pytest.fixture(scope="module")
def protein() -> Ensemble:
    """Six models of 26 residues."""
    (ensemble,) = simulate_ensembles(1, 6, 26, 26, seed=3)
    return ensemble


def generate_data(given_output: str, input: str | None = None, **flat: Any) -> GenerateDataModule:
    """The data module with options of :data:`GROUPS` given by name."""
    groups: dict[str, dict[str, Any]] = {"options": {}, "reading": {}}
    for group, found in groups.items():
        found |= {name: flat.pop(name) for name in GROUPS[group] if name in flat}
    return GenerateDataModule(
        flat.pop("output", given_output),
        input,
        options=GenerateOptions(**groups["options"]),
        reading=ReadingOptions(**groups["reading"]),
        **flat,
    )


def made_of(ensemble: Ensemble, **changes: object) -> Ensemble:
    return dataclasses.replace(ensemble, **changes)  # type: ignore[arg-type]


def all_inside(ensemble: Ensemble, cis: torch.Tensor | None = None) -> bool:
    bonded = ensemble.bonded.expand(ensemble.mask.shape)
    return bool(inside_tolerance(ensemble.coordinates, bonded, ensemble.mask, cis).all())


# -- generate -------------------------------------------------------------------------------------


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
        network, protein, GenerateOptions("ensemble", count=6, bandwidth=0, finish=False)
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
        expected = network.reconstruct(prepared.item(named, prepared.central))[0].coordinates
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
    # The draws of the elastic prior are made in the pose of the template: only their distribution
    # does not depend on it.
    for mode, temperature in (("ensemble", 1.0), ("around", 1.0), ("prior", 0.0)):
        options = GenerateOptions(mode, 3, temperature=temperature, finish=False)  # type: ignore[arg-type]
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
    for options in (GenerateOptions("ensemble", count=2), GenerateOptions("prior", count=2)):
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
    made = generate(network, long, GenerateOptions("ensemble", count=2))
    assert made.chain_ids == ("A", "B")
    assert all_inside(made)
    assert not bool(check_validity(made).broken.any())


# -- interpolate ----------------------------------------------------------------------------------


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


# -- encode ---------------------------------------------------------------------------------------


def test_latents_are_those_of_the_module_with_their_kl(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    many = made_of(
        protein.select_models([*range(6)] * 2), model_numbers=tuple(range(3, 15))
    )  # more than are encoded at once
    latents = encode_models(network, many, template=5)
    assert latents.template_model == 5
    prepared = prepare(many, None)
    network.eval()
    for m in (0, 11):
        with torch.no_grad():
            batch = prepared.item(m, 2)
            condition = network.condition(batch)
            posterior = network.encode(batch, condition)
            kl = kl_terms(network, posterior, condition, posterior.mean(), batch.weight)
        mean = posterior.mean()
        assert np.allclose(latents.z_global[m], mean.z_global[0], atol=1e-4)
        assert np.allclose(latents.z_local[m], mean.z_local[0], atol=1e-4)
        length = many.length
        assert latents.kl_global[m] / length == pytest.approx(float(kl.z_global), rel=1e-3)
        assert latents.kl_shift[m] / length == pytest.approx(float(kl.shift), rel=1e-3)
        assert latents.kl_turn[m].mean() == pytest.approx(float(kl.turn), rel=1e-3)
        assert latents.kl_detail[m].mean() == pytest.approx(float(kl.detail), rel=1e-3)
    latents.save(tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz", allow_pickle=False) as stored:
        assert set(stored) == {field.name for field in dataclasses.fields(latents)}
        assert np.array_equal(stored["z_local"], latents.z_local)
        assert str(stored["name"]) == protein.name
        assert stored["residues"].tolist()[0] == protein.label(0)
        assert stored["model_numbers"].tolist() == list(range(3, 15))


# -- superposition --------------------------------------------------------------------------------


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


# -- command line ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of a short training, made by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    for ensemble in simulate_ensembles(2, 6, 24, 26, seed=3):
        write_ensemble(folder / f"{ensemble.name}.pdb", ensemble)
    data = {
        "sources": {"structures": [str(folder)]},
        "draws": {"per_epoch": 1, "batch_proteins": 1},
    }
    config = {
        "model": {
            "class_path": "protein_cvae.ProteinCVAEModule",
            "init_args": {"network": SIZES, "export": str(folder / "model.ckpt")},
        },
        "data": {
            "class_path": "protein_cvae.EnsembleDataModule",
            "init_args": data,
        },
        "trainer": {
            "max_epochs": 1, "limit_val_batches": 0, "logger": False, "accelerator": "cpu",
            "enable_checkpointing": False, "default_root_dir": str(folder / "run"),
            "enable_progress_bar": False, "enable_model_summary": False,
        },
    }  # fmt: skip
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning"])
        cli.main(["fit", "--config", str(folder / "fit.yaml")])
    assert (folder / "model.ckpt").is_file()
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Path) -> Command:
    """``lightning predict`` with the config of a task; returns what it wrote."""
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)

    def run(task: str, output: str, **options: object) -> Path:
        path = tmp_path / output
        groups = {name: group for group, names in GROUPS.items() for name in names}
        named = {
            f"{groups[key]}.{key}" if key in groups else key: value
            for key, value in options.items()
        }
        arguments = {"output": str(path)} | named
        cli.main(
            [
                "predict",
                *("--config", str(ROOT / "configs" / "protein_cvae" / f"{task}.yaml")),
                *("--ckpt_path", str(trained / "model.ckpt")),
                *(f"--data.init_args.{key}={value}" for key, value in arguments.items()),
                "--trainer.accelerator=cpu",
                "--trainer.enable_progress_bar=false",
                f"--trainer.default_root_dir={tmp_path / 'run'}",
            ]
        )
        return path

    return run


def structure_file(trained: Path) -> Path:
    return trained / "simulated_3_0.pdb"


def test_generate_by_command(
    command: Command, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = structure_file(trained)
    path = command("generate", "made.pdb", input=given, count=3, seed=5)
    printed = capsys.readouterr().out
    assert f"wrote {path} and {path}.json" in printed
    assert "3 conformers" in printed

    summary = json.loads(Path(f"{path}.json").read_text())
    digest = hashlib.sha256((trained / "model.ckpt").read_bytes()).hexdigest()
    assert summary["checkpoint"] == {"file": "model.ckpt", "sha256": digest}
    assert summary["options"]["seed"] == 5
    assert summary["input"]["file"] == given.name
    assert summary["input"]["models"] == 6
    assert summary["generated"]["models"] == 3
    assert summary["generated"]["validity"]["inside"] == 1.0
    assert summary["given"]["models"] == 6
    assert str(trained) not in json.dumps(summary)

    # The same, as a Python call.
    network = ProteinCVAEModule.load_from_checkpoint(trained / "model.ckpt").model
    ensemble = read_structure(given)
    made = generate(network, ensemble, GenerateOptions(count=3, seed=5))
    written = read_structure(path)
    assert torch.allclose(written.coordinates, made.coordinates, atol=6e-4)
    ca = made.coordinates[:, :, CA]
    found = summary["generated"]["mean_pairwise_ca_rmsd"]["all"]
    assert found == pytest.approx(mean_rmsd(ca), rel=1e-5)
    given_rmsd = summary["given"]["mean_pairwise_ca_rmsd"]["all"]
    assert given_rmsd == pytest.approx(mean_rmsd(ensemble.coordinates[:, :, CA]), rel=1e-5)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_biopython_and_mdtraj_read_what_was_written(
    command: Command, trained: Path, suffix: str
) -> None:
    path = command(
        "generate", f"made.{suffix}", input=structure_file(trained), count=3, mode="prior"
    )
    ours = read_structure(path)
    parser = (PDBParser if suffix == "pdb" else MMCIFParser)(QUIET=True)
    structure = parser.get_structure("made", path)
    assert len(structure) == 3
    rmsf = written_rmsf(ours).numpy()
    for m, model in enumerate(structure):
        (chain,) = model
        residues = list(chain)
        assert [residue.id[1] for residue in residues] == ours.residue_numbers.tolist()
        for i, residue in enumerate(residues):
            assert [atom.id for atom in residue] == ["N", "CA", "C", "O"]
            xyz = np.array([residue[name].coord for name in ("N", "CA", "C")])
            assert np.allclose(xyz, ours.coordinates[m, i], atol=1e-4)
            # Columns of PDB hold 0.01 Å of the B-factor.
            assert residue["CA"].bfactor == pytest.approx(rmsf[i], abs=6e-3)
            assert np.linalg.norm(residue["O"].coord - residue["C"].coord) == pytest.approx(
                1.231, abs=5e-3
            )
    trajectory = mdtraj.load(str(path))
    assert trajectory.n_frames == 3
    order = trajectory.topology.select("name N or name CA or name C")
    xyz = 10 * trajectory.xyz[:, order].reshape(3, -1, 3, 3)
    assert np.allclose(xyz, ours.coordinates, atol=2e-3)


@pytest.mark.parametrize("mode", ["around", "sequence"])
def test_other_modes_by_command(command: Command, trained: Path, mode: str) -> None:
    path = command("generate", "made.cif", input=structure_file(trained), count=2, mode=mode)
    summary = json.loads(Path(f"{path}.json").read_text())
    assert summary["options"]["mode"] == mode
    assert (summary["given"] is None) == (mode == "sequence")
    assert read_structure(path).num_models == 2


def test_generate_from_a_sequence_by_command(command: Command, tmp_path: Path) -> None:
    fasta = tmp_path / "protein.fasta"
    fasta.write_text(">name some text\nmktay\nIAKQR*\n")
    first = command("generate", "a.pdb", input=fasta, mode="sequence", count=2)
    second = command(
        "generate", "b.pdb", input="null", sequence="MKTAYIAKQR", mode="sequence", count=2
    )
    ours = read_structure(first)
    assert ours.sequence == "MKTAYIAKQR"
    assert torch.equal(ours.coordinates, read_structure(second).coordinates)
    assert json.loads(Path(f"{first}.json").read_text())["input"]["models"] == 0


def test_one_conformer_and_one_model(command: Command, trained: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.pdb"
    write_ensemble(one, read_structure(structure_file(trained)).select_models([4]))
    path = command("generate", "made.pdb", input=one, count=1, mode="prior")
    summary = json.loads(Path(f"{path}.json").read_text())
    assert summary["input"]["template_model"] == 5
    assert summary["generated"]["mean_pairwise_ca_rmsd"] == {"core": None, "all": None}
    assert read_structure(path).num_models == 1
    around = generate(tiny_network(), read_structure(one), GenerateOptions("around", count=1))
    assert all_inside(around)


def test_interpolate_by_command(
    command: Command, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = structure_file(trained)
    path = command("interpolate", "path.pdb", input=given, steps=5)
    assert "5 steps over" in capsys.readouterr().out
    assert read_structure(path).num_models == 5
    summary = json.loads(Path(f"{path}.json").read_text())
    assert summary["input"]["models"] == [1, 6]
    assert len(summary["path"]["step_ca_rmsd"]) == 4
    assert summary["generated"]["validity"]["inside"] == 1.0
    ensemble = read_structure(given)
    direct = pairwise_rmsd(ensemble.coordinates[:1, :, CA], ensemble.coordinates[5:, :, CA])
    assert summary["path"]["direct_ca_rmsd"] == pytest.approx(float(direct), rel=1e-5)

    other = tmp_path / "other.cif"
    write_ensemble(other, ensemble.select_models([5]))
    again = command("interpolate", "again.pdb", input=given, second=other, first_model=1, steps=5)
    found = aligned_rmsd(
        read_structure(again).coordinates[:, :, CA], read_structure(path).coordinates[:, :, CA]
    )
    assert found.max() < 5e-3


def test_encode_by_command(
    command: Command, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = command("encode", "z.npz", input=structure_file(trained), template=2)
    assert "6 models encoded" in capsys.readouterr().out
    ensemble = read_structure(structure_file(trained))
    network = ProteinCVAEModule.load_from_checkpoint(trained / "model.ckpt").model
    expected = encode_models(network, ensemble, template=2)
    with np.load(path, allow_pickle=False) as stored:
        for field in dataclasses.fields(expected):
            value = np.array(getattr(expected, field.name))
            close = np.allclose(stored[field.name], value, rtol=1e-5, atol=1e-6) if (
                value.dtype.kind == "f"
            ) else np.array_equal(stored[field.name], value)  # fmt: skip
            assert close, field.name
    kl = json.loads(Path(f"{path}.json").read_text())["kl_nats_per_residue"]
    assert kl["detail"] == pytest.approx(float(expected.kl_detail.mean()), rel=1e-4)


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


# -- embedder -------------------------------------------------------------------------------------


class FakeEmbedder:
    """One-hot letters."""

    def __init__(self, width: int = 21, identity: str = "letters") -> None:
        self.width, self.identity = width, identity

    def embed(self, sequences: Sequence[str]) -> list[np.ndarray]:
        letters = "ACDEFGHIKLMNPQRSTVWYX"
        return [
            np.stack([np.eye(self.width, dtype=np.float32)[letters.index(c)] for c in sequence])
            for sequence in sequences
        ]


class EmbedderModule(ProteinCVAEModule):
    """As if trained with the embedder called "letters"."""

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["protein_cvae_data"] = {"embedder": "letters"}


def test_the_embedder_is_that_of_the_training(protein: Ensemble, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = EmbedderModule(NetworkSettings(d_embedding=21, **SIZES))  # type: ignore[arg-type]
    made = generate(module.model, protein, GenerateOptions("prior", count=2), FakeEmbedder())
    assert all_inside(made)
    with pytest.raises(ValueError, match="width 21, none is given"):
        generate(module.model, protein)
    with pytest.raises(ValueError, match="width 21, one of width 22 is given"):
        encode_models(module.model, protein, embedder=FakeEmbedder(22))
    with pytest.raises(ValueError, match="learned without a sequence embedder"):
        generate(tiny_network(), protein, embedder=FakeEmbedder())

    write_ensemble(tmp_path / "given.pdb", protein)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for identity in ("letters", "other"):
        data = GenerateDataModule(
            str(tmp_path / f"{identity}.pdb"),
            str(tmp_path / "given.pdb"),
            options=GenerateOptions(count=1),
            embedder=FakeEmbedder(identity=identity),
        )
        if identity == "other":
            with pytest.raises(ValueError, match="trained with letters, given is other"):
                trainer.predict(module, data, ckpt_path=tmp_path / "model.ckpt")
            assert not (tmp_path / "other.pdb").exists()
        else:
            trainer.predict(module, data, ckpt_path=tmp_path / "model.ckpt")
            summary = json.loads((tmp_path / "letters.pdb.json").read_text())
            assert summary["embedder"] == "letters"


# -- bad input ------------------------------------------------------------------------------------


def spoiled(protein: Ensemble, model: int, residue: int) -> Ensemble:
    coordinates, mask = protein.coordinates.clone(), protein.mask.clone()
    coordinates[model, residue], mask[model, residue] = 0.0, False
    return made_of(protein, coordinates=coordinates, mask=mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be finite and not negative, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"bandwidth": 1.5}, r"bandwidth must lie in \[0, 1\], got 1.5"),
        ({"mode": "all"}, "mode must be one of ensemble, around, prior, sequence, got 'all'"),
        ({"mode": "sequence", "model": 3}, "model 3: mode sequence uses no model"),
        ({"output": "made.xyz"}, r"made.xyz: suffix '.xyz' is not known"),
        ({"input": None}, "give either input or sequence"),
        ({"sequence": "ACD"}, "not both"),
        ({"input": None, "sequence": "ACD"}, "mode ensemble needs a structure"),
    ],
)
def test_options_of_generate(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_data("made.pdb", **({"input": "given.pdb"} | options))


def test_options_of_the_others() -> None:
    with pytest.raises(ValueError, match="steps must be at least 2, both ends, got 1"):
        InterpolateOptions(steps=1)
    with pytest.raises(ValueError, match="templates must be 'both' or 'first', got 'second'"):
        InterpolateOptions(templates="second")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"latents.csv must end in .npz"):
        EncodeDataModule("a.pdb", "latents.csv")


def test_outputs_that_exist_or_are_inputs(tmp_path: Path, protein: Ensemble) -> None:
    given = tmp_path / "given.pdb"
    write_ensemble(given, protein)
    with pytest.raises(FileExistsError, match=r"given.pdb exists; choose another output"):
        GenerateDataModule(str(given), str(given))
    with pytest.raises(ValueError, match=r"given.pdb is an input file"):
        GenerateDataModule(str(given), str(given), overwrite=True)
    (tmp_path / "made.pdb.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"made.pdb.json exists"):
        GenerateDataModule(str(tmp_path / "made.pdb"), str(given))
    (tmp_path / "folder.pdb").mkdir()
    with pytest.raises(ValueError, match=r"output must name a file, but .*folder.pdb is a folder"):
        GenerateDataModule(str(tmp_path / "folder.pdb"), str(given))


def test_inputs_that_cannot_be_used(tmp_path: Path, protein: Ensemble) -> None:
    given, out = tmp_path / "given.pdb", str(tmp_path / "made.pdb")
    write_ensemble(given, protein)

    def bad(
        message: str, kind: type[Exception] = ValueError, path: Path = given, **options: Any
    ) -> None:
        with pytest.raises(kind, match=message):
            generate_data(out, str(path), **options).read()

    bad("input: no such file or folder: .*nowhere.pdb", FileNotFoundError, tmp_path / "nowhere.pdb")
    bad("given.pdb: no chain 'Q'; chains must be .*A \\(26 residues\\)", chains="Q")
    bad("given.pdb: model 9: no such model; the file has 6: 1, 2, 3", model=9, mode="around")
    bad("made.pdb: model number 10000: it does not fit the columns of PDB", count=10_000)

    one = tmp_path / "one.pdb"
    write_ensemble(one, protein.select_models([2]))
    bad("one.pdb: mode ensemble needs at least 2 models, the file has 1", path=one)
    with pytest.raises(ValueError, match=r"one.pdb: both ends are model 3; a path needs two"):
        InterpolateDataModule(str(one), out).read()

    short = tmp_path / "short.pdb"
    write_ensemble(short, protein.select_residues(torch.arange(26) < 3))
    bad("short.pdb: 3 residues in chain A; the model takes 4 to 1000", path=short)

    holes = tmp_path / "holes.cif"
    write_ensemble(holes, spoiled(protein, 3, 9))
    label = protein.label(9)
    bad(f"holes.cif: model 4, residue {label}: N, CA or C is missing", path=holes)
    bad(f"model 4, residue {label}", path=holes, mode="prior", model=4)
    assert generate_data(out, str(holes), mode="prior", model=3).read().ensemble.length == 26
    dropped = generate_data(out, str(holes), incomplete="drop").read().ensemble
    assert dropped.length == 25
    assert not dropped.bonded[8]
    with pytest.raises(ValueError, match=f"model 4, residue {label}"):
        EncodeDataModule(str(holes), str(tmp_path / "z.npz")).read()

    fasta = tmp_path / "given.fasta"
    fasta.write_text(">one\nACDEFGH\n>two\nACDEFGH\n")
    bad("given.fasta: a FASTA file holds no structure, which mode prior", path=fasta, mode="prior")
    bad("given.fasta: expected one FASTA record.* found 2", path=fasta, mode="sequence")
    fasta.write_text(">one\nACDBFGH\n")
    bad("given.fasta: sequence: letter 'B' at position 3", path=fasta, mode="sequence")
    fasta.write_text(">one\n" + "A" * 1001)
    bad("given.fasta: 1001 residues .* takes 4 to 1000", path=fasta, mode="sequence")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "given.fasta", "given.pdb", "holes.cif", "one.pdb", "short.pdb",
    ]  # fmt: skip


def test_ends_of_a_path_that_do_not_agree(tmp_path: Path, protein: Ensemble) -> None:
    first, second = tmp_path / "first.pdb", tmp_path / "second.pdb"
    write_ensemble(first, protein)
    other = ("A" if protein.sequence[7] != "A" else "G").join(
        [protein.sequence[:7], protein.sequence[8:]]
    )
    write_ensemble(second, made_of(protein, sequence=other))
    out = str(tmp_path / "path.pdb")
    with pytest.raises(ValueError, match=r"sequences differ at residue 8: .*first.pdb.*second.pdb"):
        InterpolateDataModule(str(first), out, PathEnds(str(second))).read()
    write_ensemble(second, protein.select_residues(torch.arange(26) < 20))
    with pytest.raises(ValueError, match=r"first.pdb has 26 residues and .*second.pdb has 20"):
        InterpolateDataModule(str(first), out, PathEnds(str(second))).read()
    with pytest.raises(ValueError, match=r"second.pdb: second_model 8: no such model"):
        InterpolateDataModule(str(first), out, PathEnds(str(second), second_model=8)).read()


def test_a_bad_command_says_so_in_one_line_and_writes_nothing(
    command: Command, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ({"chains": "Q"}, {"count": 0}, {"model": 77}):
        with pytest.raises(SystemExit) as stopped:
            command("generate", "made/made.pdb", input=structure_file(trained), **options)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert "error: " in error
        assert "Traceback" not in error
        assert next(iter(options)) in error.replace("no chain", "chains")
    assert not (tmp_path / "made").exists()


def test_predict_needs_one_of_these_data_modules(tmp_path: Path, protein: Ensemble) -> None:
    with pytest.raises(ValueError, match="one of GenerateDataModule, InterpolateDataModule and"):
        tiny_module().predict_step(prepare(protein, None).item(0, 1), 0)  # type: ignore[arg-type]
    write_ensemble(tmp_path / "given.pdb", protein)
    data = GenerateDataModule(str(tmp_path / "made.pdb"), str(tmp_path / "given.pdb"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"needs protein_cvae\.ProteinCVAEModule, got Boring"):
        trainer.predict(BoringModel(), data)
    with pytest.warns(UserWarning, match="no --ckpt_path is given"):
        trainer.predict(tiny_module(), data)
    assert (tmp_path / "made.pdb").is_file()
