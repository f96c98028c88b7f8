"""Trajectories: units, frames, chains, and what does not belong together."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from protein_trajectories import ATOMS, save, topology_and_frames

from protein_cvae.io import load_trajectory_folder, read_trajectory

XTC = 0.006  # Å; half of its last digit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["ALA", "HID", "ASH", "GLY", "LRT", "YPL"]
    text, frames = topology_and_frames(names, 17)
    return save(tmp_path / "protein", text, run1=frames[:10], run2=frames[10:])


def backbone(frames: np.ndarray, residues: int) -> np.ndarray:
    return frames[:, 1:-1].reshape(len(frames), residues, len(ATOMS), 3)[:, :, :3]


def test_frames_of_all_trajectories_in_angstrom(folder):
    ensemble = load_trajectory_folder(folder)
    _, frames = topology_and_frames(["ALA", "HID", "ASH", "GLY", "LRT", "YPL"], 17)
    assert (ensemble.name, ensemble.num_models) == ("protein", 17)
    assert ensemble.sequence == "AHDGKC"
    assert ensemble.residue_numbers.tolist() == [1, 2, 3, 4, 5, 6]
    assert ensemble.bonded.tolist() == [True] * 5 + [False]
    assert np.abs(ensemble.coordinates.numpy() - backbone(frames, 6)).max() < XTC
    assert ensemble.model_numbers == tuple(range(1, 18))
    dropped = {note.residue for note in ensemble.report.of_kind("dropped")}
    assert dropped == {"ACE", "HOH"}
    for file in ("topology.pdb", "run1.xtc", "run2.xtc"):
        assert file in ensemble.source


def test_one_trajectory_of_a_folder(folder):
    ensemble = load_trajectory_folder(folder, trajectories=["run2.xtc"])
    assert ensemble.num_models == 7
    alone = read_trajectory(folder / "topology.pdb", [folder / "run2.xtc"])
    assert alone.name == "run2"
    assert torch.equal(alone.coordinates, ensemble.coordinates)


def test_stride_and_max_frames_keep_the_frames_numbers(folder):
    every = load_trajectory_folder(folder)
    third = load_trajectory_folder(folder, stride=3)
    # of each trajectory the first and every third; frames of run2 are numbered behind run1's ten
    assert third.model_numbers == (1, 4, 7, 10, 11, 14, 17)
    picked = [number - 1 for number in third.model_numbers]
    assert torch.equal(third.coordinates, every.coordinates[picked])
    few = load_trajectory_folder(folder, stride=3, max_frames=3)
    assert few.model_numbers == (1, 10, 17)
    assert torch.equal(few.coordinates, every.coordinates[[0, 9, 16]])
    assert load_trajectory_folder(folder, max_frames=100).num_models == 17


def test_chains_gaps_and_chains_of_one_name(tmp_path):
    text, frames = topology_and_frames(
        ["ALA", "GLY", "SER", "LEU", "VAL"],
        4,
        slots=[0, 1, 9, 20, 21],
        chains=["A", "A", "A", "B", "B"],
        numbers=[5, 6, 30, 1, 2],
    )
    ensemble = load_trajectory_folder(save(tmp_path / "two", text, run=frames))
    assert ensemble.chain_ids == ("A", "B")
    assert ensemble.chain_index.tolist() == [0, 0, 0, 1, 1]
    assert ensemble.bonded.tolist() == [True, False, False, True, False]
    assert ensemble.report.of_kind("chain break")[0].residue == "A GLY 6"
    # the second chain under the name of the first, numbered anew behind TER
    text = "\n".join(line[:21] + "A" + line[22:] if line[21:22] == "B" else line
                     for line in text.splitlines())  # fmt: skip
    ensemble = load_trajectory_folder(save(tmp_path / "same", text, run=frames))
    assert ensemble.chain_ids == ("A", "B")
    assert ensemble.sequence == "AGSLV"


def test_residues_that_share_a_number_get_codes(tmp_path):
    text, frames = topology_and_frames(["ALA", "GLY", "SER"], 2, numbers=[52, 52, 52])
    lines = [
        line[:26] + {"ALA": " ", "GLY": "A", "SER": "B"}.get(line[17:20], " ") + line[27:]
        for line in text.splitlines()
    ]
    ensemble = load_trajectory_folder(save(tmp_path / "codes", "\n".join(lines), run=frames))
    assert ensemble.sequence == "AGS"
    assert ensemble.insertion_codes == ("", "A", "B")
    table = mdtraj.load(str(tmp_path / "codes/topology.pdb"))
    table.save_gro(str(tmp_path / "codes.gro"))  # a format without insertion codes
    ensemble = read_trajectory(tmp_path / "codes.gro", [tmp_path / "codes/run.xtc"])
    assert ensemble.sequence == "AGS"
    assert ensemble.insertion_codes == ("", "A", "B")
    assert len(ensemble.report.of_kind("insertion codes")) == 2


def test_missing_backbone_atom_masks_the_residue(tmp_path):
    text, frames = topology_and_frames(["ALA", "GLY", "SER"], 3)
    lines = text.splitlines()
    drop = next(i for i, line in enumerate(lines) if line[12:20] == " C   GLY")
    kept = np.delete(frames, drop, axis=1)
    text = "\n".join(lines[:drop] + lines[drop + 1 :])
    ensemble = load_trajectory_folder(save(tmp_path / "gap", text, run=kept))
    assert ensemble.sequence == "AGS"
    assert ensemble.mask.tolist() == [[True, False, True]] * 3
    assert ensemble.report.of_kind("missing backbone atoms")[0].model is None  # in all frames


def test_other_atoms_than_the_topology_names_both_files(tmp_path, folder):
    text, frames = topology_and_frames(["ALA", "GLY"], 3)
    other = save(tmp_path / "other", text, run=frames)
    with pytest.raises(ValueError, match=r"run\.xtc has 12 atoms, topology .*topology\.pdb has 32"):
        read_trajectory(folder / "topology.pdb", [other / "run.xtc"])


def test_frame_that_is_not_finite_names_frame_and_residue(tmp_path):
    text, frames = topology_and_frames(["ALA", "GLY", "SER"], 5)
    frames[3, 7] = np.nan  # CA of GLY
    folder = save(tmp_path / "x", text)
    table = mdtraj.load_topology(str(folder / "topology.pdb"))
    mdtraj.Trajectory((frames / 10).astype(np.float32), table).save(str(folder / "run.dcd"))
    with pytest.raises(
        ValueError, match=r"run\.dcd: frame 4 \(model 4\), residue A GLY 2: .*finite"
    ):
        load_trajectory_folder(folder)


def test_chain_cut_by_the_box_names_frame_and_residue(tmp_path):
    text, frames = topology_and_frames(["ALA", "GLY", "SER"], 5)
    frames[2, 11:16] += 50.0  # SER on the other side
    with pytest.raises(ValueError, match=r"topology\.pdb: frame 3 .*residue A GLY 2.*A SER 3.*box"):
        load_trajectory_folder(save(tmp_path / "x", text, run=frames))


@pytest.mark.parametrize("angles", [(90.0, 90.0, 90.0), (60.0, 60.0, 90.0)])
def test_chain_in_another_periodic_image_is_moved_back(tmp_path, angles):
    """In a cubic box and in a rhombic dodecahedron; what only moves is left alone."""
    names, chains = ["ALA", "GLY", "SER", "LEU"] * 2, ["A"] * 4 + ["B"] * 4
    text, frames = topology_and_frames(names, 6, chains=chains, numbers=[1, 2, 3, 4] * 2)
    box = (60.0, 60.0, 60.0, *angles)
    second = slice(1 + 4 * len(ATOMS), 1 + 8 * len(ATOMS))
    frames[2:, second] += [0.0, 12.0, 9.0]
    whole = load_trajectory_folder(save(tmp_path / "whole", text, box=box, run=frames))
    assert not whole.report.of_kind("periodic image")
    a, b, c = (
        10
        * mdtraj.load(
            str(tmp_path / "whole/run.xtc"), top=str(tmp_path / "whole/topology.pdb")
        ).unitcell_vectors[0]
    )
    frames[3:5, second] -= c
    frames[4, second] += a - b
    wrapped = load_trajectory_folder(save(tmp_path / "wrapped", text, box=box, run=frames))
    np.testing.assert_allclose(wrapped.coordinates, whole.coordinates, atol=5 * XTC)
    notes = wrapped.report.of_kind("periodic image")
    assert {(note.residue, note.model) for note in notes} == {("chain B", 4), ("chain B", 5)}


def test_files_that_cannot_be_read_are_named(tmp_path, folder):
    topology, run = folder / "topology.pdb", folder / "run1.xtc"
    with pytest.raises(FileNotFoundError, match=r"none\.xtc: no such trajectory"):
        read_trajectory(topology, [folder / "none.xtc"])
    with pytest.raises(FileNotFoundError, match=r"none\.pdb: no such topology"):
        read_trajectory(folder / "none.pdb", [run])
    with pytest.raises(ValueError, match=r"topology\.pdb: suffix '\.pdb' is no trajectory"):
        read_trajectory(topology, [topology])
    with pytest.raises(ValueError, match=r"run1\.xtc: suffix '\.xtc' is no topology"):
        read_trajectory(run, [run])
    with pytest.raises(ValueError, match="expected at least one file for"):
        read_trajectory(topology, [])
    with pytest.raises(ValueError, match=r"topology\.pdb: stride and max_frames must be at least"):
        read_trajectory(topology, [run], stride=0)
    (tmp_path / "garbage.xtc").write_bytes(b"nothing of the kind" * 40)
    with pytest.raises(ValueError, match=r"garbage\.xtc: cannot be read as a trajectory"):
        read_trajectory(topology, [tmp_path / "garbage.xtc"])
    (tmp_path / "cut.xtc").write_bytes(run.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"cut\.xtc"):
        read_trajectory(topology, [tmp_path / "cut.xtc"])
    (tmp_path / "empty.xtc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.xtc"):
        read_trajectory(topology, [tmp_path / "empty.xtc"])
    (tmp_path / "garbage.pdb").write_text("lorem ipsum")
    with pytest.raises(ValueError, match=r"garbage\.pdb"):
        read_trajectory(tmp_path / "garbage.pdb", [run])


def test_no_protein_and_too_few_frames(tmp_path, folder):
    text, frames = topology_and_frames([], 2)
    with pytest.raises(ValueError, match=r"topology\.pdb: no protein"):
        load_trajectory_folder(save(tmp_path / "water", text, run=frames))
    with pytest.raises(ValueError, match=r"17 models \(number 1\), min_models is 18"):
        load_trajectory_folder(folder, min_models=18)
    with pytest.raises(ValueError, match=r"6 residues from A ALA 1 to A YPL 6, max_residues is 5"):
        load_trajectory_folder(folder, max_residues=5)


def test_folder_without_topology_or_trajectory(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no topology; expected a file"):
        load_trajectory_folder(tmp_path)
    (tmp_path / "topology.pdb").write_text((folder / "topology.pdb").read_text())
    with pytest.raises(FileNotFoundError, match=r"no trajectory beside topology\.pdb"):
        load_trajectory_folder(tmp_path)
