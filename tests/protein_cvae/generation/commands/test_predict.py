"""`lightning predict` that generates, interpolates and encodes: files and provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB import MMCIFParser, PDBParser
from protein_runs import (
    CA,
    Command,
    all_inside,
    structure_file,
    tiny_network,
)

from common.align import aligned_rmsd
from protein_cvae.generation.encode import encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.outputs import written_rmsf
from protein_cvae.geometry.superposition import mean_rmsd, pairwise_rmsd
from protein_cvae.io import read_structure, write_ensemble
from protein_cvae.module import ProteinCVAEModule

# The checkpoint brings its sizes in place of the defaults.
pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")


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
    assert kl["noise"] == expected.noise
    for key, nats in (
        ("z_global", expected.kl_global),
        ("shift", expected.kl_shift),
        ("turn", expected.kl_turn),
    ):
        assert kl[key] == pytest.approx(float(nats.mean()) / ensemble.length, rel=1e-4)
