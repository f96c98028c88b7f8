"""Trajectories and topologies as programs lay them out: formats, names, boxes, frames."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest
import torch
from protein_files import BOXES, FAR, blank, moved, pdb, peptide, vectors

from protein_cvae.io import find_ensembles, load_ensemble, read_conformers, read_trajectory

NAMES = ("ALA", "GLY", "SER", "LEU")
XTC = 0.006  # Å; half of its last digit


def frames_of(path: Path, count: int = 5, seed: int = 0) -> mdtraj.Trajectory:
    """Frames of a PDB file, with noise of 0.02 Å."""
    one = mdtraj.load(str(path))
    noise = np.random.default_rng(seed).normal(0, 0.002, (count, one.n_atoms, 3))
    return mdtraj.Trajectory((one.xyz + noise).astype(np.float32), one.topology)


@pytest.fixture
def peptide_frames(tmp_path: Path) -> mdtraj.Trajectory:
    (tmp_path / "made.pdb").write_text(pdb(peptide(NAMES)))
    frames = frames_of(tmp_path / "made.pdb")
    (tmp_path / "made.pdb").unlink()
    return frames


def save(frames: mdtraj.Trajectory, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames.save(str(path))
    return path


def save_hdf5(frames: mdtraj.Trajectory, path: Path) -> Path:
    """As MDTraj writes it, which needs another package for that."""
    residues = [
        {"index": r.index, "name": r.name, "resSeq": r.resSeq, "segmentID": "",
         "atoms": [{"index": a.index, "name": a.name, "element": "C"} for a in r.atoms]}
        for r in frames.topology.residues
    ]  # fmt: skip
    with h5py.File(path, "w") as file:
        file["coordinates"] = frames.xyz
        file["coordinates"].attrs["units"] = b"nanometers"
        text = json.dumps({"chains": [{"index": 0, "residues": residues}], "bonds": []})
        file["topology"] = np.array([text.encode()])
    return path


def save_psf(frames: mdtraj.Trajectory, path: Path) -> Path:
    atoms = list(frames.topology.atoms)
    lines = ["PSF", "", "       1 !NTITLE", " REMARKS", "", f"{len(atoms):8d} !NATOM"]
    lines += [
        f"{a.index + 1:8d} P1 {a.residue.resSeq} {a.residue.name} {a.name} {a.name} 0.0 12.0 0"
        for a in atoms
    ]
    bonds = [i + 1 for a, b in pairwise(atoms) for i in (a.index, b.index)]
    lines += ["", f"{len(bonds) // 2:8d} !NBOND: bonds"]
    lines += ["".join(f"{i:8d}" for i in bonds[k : k + 8]) for k in range(0, len(bonds), 8)]
    path.write_text("\n".join([*lines, "", ""]))
    return path


def save_prmtop(frames: mdtraj.Trajectory, path: Path) -> Path:
    """Only the sections that say which atoms and bonds there are."""
    atoms, residues = list(frames.topology.atoms), list(frames.topology.residues)
    pointers = [len(atoms)] + [0] * 30
    bonds = [v for a in atoms[:-1] for v in (3 * a.index, 3 * a.index + 3, 1)]
    sections = {
        "POINTERS": ("10I8", [f"{n:8d}" for n in pointers], 10),
        "ATOM_NAME": ("20a4", [f"{a.name:<4s}" for a in atoms], 20),
        "RESIDUE_LABEL": ("20a4", [f"{r.name:<4s}" for r in residues], 20),
        "RESIDUE_POINTER": ("10I8", [f"{r.atom(0).index + 1:8d}" for r in residues], 10),
        "BONDS_INC_HYDROGEN": ("10I8", [], 10),
        "BONDS_WITHOUT_HYDROGEN": ("10I8", [f"{n:8d}" for n in bonds], 10),
    }
    lines = ["%VERSION  VERSION_STAMP = V0001.000"]
    for flag, (form, items, width) in sections.items():
        lines += [f"%FLAG {flag}", f"%FORMAT({form})"]
        lines += ["".join(items[k : k + width]) for k in range(0, len(items), width)] or [""]
    path.write_text("\n".join([*lines, ""]))
    return path


TRAJECTORIES = {".xtc": XTC, ".trr": 1e-4, ".dcd": 1e-4, ".nc": 1e-4, ".ncdf": 1e-4, ".mdcrd": 1e-3}


@pytest.mark.parametrize("suffix", [*TRAJECTORIES, ".h5"])
@pytest.mark.parametrize("folder", [True, False])
def test_every_format_in_a_folder_and_alone(tmp_path, peptide_frames, suffix, folder):
    """A topology of any name beside it; frames that are taken are those of the file."""
    path = tmp_path / "run" / f"md{suffix}"
    path.parent.mkdir()
    if suffix == ".h5":
        save_hdf5(peptide_frames, path)
    else:
        save(peptide_frames, path)
        save(peptide_frames[0], tmp_path / "run" / "protein.gro")
    (found,) = find_ensembles([path.parent])
    assert found == (path if suffix == ".h5" else path.parent)
    ensemble = load_ensemble(path.parent if folder else path)
    assert (ensemble.sequence, ensemble.num_models) == ("AGSL", 5)
    wanted = 10 * peptide_frames.xyz.reshape(5, 4, 3, 3)
    tolerance = TRAJECTORIES.get(suffix, 1e-4)
    assert np.abs(ensemble.coordinates.numpy() - wanted).max() < tolerance
    few = load_ensemble(path, max_frames=3)
    assert few.model_numbers == (1, 3, 5)
    assert torch.equal(few.coordinates, ensemble.coordinates[[0, 2, 4]])


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".gro", ".psf", ".prmtop"])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_topology_also_compressed(tmp_path, peptide_frames, suffix, compressed):
    """Degiacomi-Lab/molearn#20: a trajectory and its topology as two arguments."""
    run = save(peptide_frames, tmp_path / "md.dcd")
    topology = tmp_path / f"other{suffix}"
    own = {".psf": save_psf, ".prmtop": save_prmtop}.get(suffix, lambda t, p: save(t[0], p))
    own(peptide_frames, topology)
    if compressed:
        content = gzip.compress(topology.read_bytes())
        topology.unlink()
        topology = topology.with_name(topology.name + ".gz")
        topology.write_bytes(content)
    ensemble = load_ensemble(run, topology=topology)
    assert (ensemble.sequence, ensemble.num_models) == ("AGSL", 5)
    assert ensemble.residue_numbers.tolist() == [1, 2, 3, 4]
    assert ensemble.bonded.tolist() == [True, True, True, False]
    assert torch.equal(load_ensemble(run).coordinates, ensemble.coordinates)


def test_folders_of_atlas(tmp_path, peptide_frames):
    """bjing2016/alphaflow#23, scripts/prep_atlas.py: ID/ID.pdb and ID/ID_prod_R1_fit.xtc."""
    folder = tmp_path / "1abc_A"
    save(peptide_frames[0], folder / "1abc_A.pdb")
    for replica in (1, 2, 3):
        save(peptide_frames, folder / f"1abc_A_prod_R{replica}_fit.xtc")
    assert find_ensembles([tmp_path]) == [folder]
    assert load_ensemble(folder).num_models == 15


def test_trajectories_of_several_proteins_in_one_folder(tmp_path, peptide_frames):
    small = peptide_frames.atom_slice(range(9))
    for name, frames in (("one", peptide_frames), ("two", small)):
        save(frames[0], tmp_path / f"{name}.pdb")
        save(frames, tmp_path / f"{name}.xtc")
    found = find_ensembles([tmp_path])
    assert [path.name for path in found] == ["one.xtc", "two.xtc"]
    assert [load_ensemble(path).sequence for path in found] == ["AGSL", "AGS"]


def test_trajectories_without_their_topology_are_told(tmp_path, peptide_frames):
    save(peptide_frames, tmp_path / "md.xtc")
    for what in ("md.xtc", ""):
        with pytest.raises(FileNotFoundError, match="no topology"):
            load_ensemble(tmp_path / what)
    with pytest.raises(FileNotFoundError, match=r"md\.xtc lie there unread: expected a file with"):
        find_ensembles([tmp_path])
    save(peptide_frames.atom_slice(range(6))[0], tmp_path / "part.pdb")
    unread: list[str] = []
    assert [path.name for path in find_ensembles([tmp_path], unread)] == ["part.pdb"]
    assert "md.xtc lie there unread: not those of md.xtc: part.pdb (6 atoms)" in unread[0]
    with pytest.raises(ValueError, match=r"md\.xtc has 12 atoms, topology .*part\.pdb has 6"):
        load_ensemble(tmp_path / "md.xtc", topology=tmp_path / "part.pdb")
    with pytest.raises(ValueError, match=r"part\.pdb: no trajectory, so topology .* has no use"):
        load_ensemble(tmp_path / "part.pdb", topology="x.gro")


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("first", [4, 6, 7])
def test_a_chain_that_the_box_cuts_in_every_frame(tmp_path, peptide_frames, box, first):
    """MDAnalysis/mdanalysis#1004, HITS-MCM/gromacs-ramd#25."""
    save(peptide_frames[0], tmp_path / "topology.pdb")
    whole = 10 * peptide_frames.xyz
    cut = peptide_frames[:]
    cut.unitcell_lengths = np.tile(np.array(BOXES[box][:3]) / 10, (5, 1))
    cut.unitcell_angles = np.tile(BOXES[box][3:], (5, 1))
    a, b, c = vectors(BOXES[box])
    for frame, image in enumerate((a, -b, c, a - c, b)):
        cut.xyz[frame, first:] += (image / 10).astype(np.float32)
    save(cut, tmp_path / "md.xtc")
    ensemble = load_ensemble(tmp_path)
    assert bool(ensemble.mask.all())
    assert ensemble.bonded.tolist() == [True, True, True, False]
    found = ensemble.coordinates.numpy().reshape(5, 12, 3)
    assert np.abs(found - whole).max() < 0.02  # the box of an xtc has 0.001 nm, too
    assert ensemble.report.of_kind("periodic box")[0].model is None


def test_a_cut_chain_without_a_box_is_refused_if_its_topology_is_whole(tmp_path, peptide_frames):
    save(peptide_frames[0], tmp_path / "topology.pdb")
    peptide_frames.xyz[:, 6:] += 6.0
    save(peptide_frames, tmp_path / "md.xtc")
    with pytest.raises(ValueError, match=r"A GLY 2 is bonded to A SER 3 .*periodic box"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize("second", [1, 5])
def test_two_chains_of_a_gro_file(tmp_path, second):
    """No identifiers and no TER: numbers start again, or atoms of a terminus stand between."""
    other = [f"{x[:22]}{int(x[22:26]) - 1 + second:4d}{x[26:]}" for x in moved(peptide(NAMES), FAR)]
    end = [peptide(NAMES)[-3].replace(" N  ", " OC2")]
    (tmp_path / "made.pdb").write_text(pdb([*blank(peptide(NAMES)), *end, *blank(other)]))
    frames = frames_of(tmp_path / "made.pdb")
    (tmp_path / "made.pdb").unlink()
    save(frames[0], tmp_path / "protein.gro")
    save(frames, tmp_path / "md.xtc")
    ensemble = load_ensemble(tmp_path)
    assert (ensemble.chain_ids, ensemble.sequence) == (("A", "B"), "AGSLAGSL")


def test_atoms_of_a_residue_in_two_places_of_a_topology(tmp_path, peptide_frames):
    """Carbonyl carbons behind everything else: rows of the frames must follow."""
    order = [i for i in range(12) if i % 3 != 2] + [i for i in range(12) if i % 3 == 2]
    lines = [peptide(NAMES)[i] for i in order]
    (tmp_path / "topology.pdb").write_text(pdb(lines))
    xyz = peptide_frames.xyz[:, order]
    with mdtraj.formats.XTCTrajectoryFile(str(tmp_path / "md.xtc"), "w") as file:
        file.write(xyz)
    found = load_ensemble(tmp_path).coordinates.numpy().reshape(5, 12, 3)
    assert np.abs(found - 10 * peptide_frames.xyz).max() < XTC


def test_conformers_in_a_file_each(tmp_path, peptide_frames):
    """Degiacomi-Lab/molearn#20: one PDB file for each conformer."""
    for number in range(12):
        save(peptide_frames[number % 5], tmp_path / "decoys" / f"frame_{number}.pdb")
    folder = tmp_path / "decoys"
    ensemble = load_ensemble(folder)
    assert (ensemble.name, ensemble.num_models) == ("decoys", 12)
    assert torch.equal(ensemble.coordinates[10], ensemble.coordinates[0])  # frame_10 is the tenth
    files = [note.detail for note in ensemble.report.of_kind("conformer")]
    assert files == [f"is of frame_{number}.pdb" for number in range(12)]
    assert load_ensemble(str(folder / "frame_1*.pdb")).num_models == 3
    assert read_conformers([folder / "frame_3.pdb", folder / "frame_1.pdb"]).num_models == 2
    (folder / "frame_12.pdb").write_text(pdb(peptide(("ALA", "GLY", "TRP", "LEU"))))
    with pytest.raises(ValueError, match=r"frame_12\.pdb \(model 13\) have 3 residues in common"):
        load_ensemble(folder)


READ = """
import sys
from protein_cvae.io import load_ensemble
status = lambda: int(dict(x.split(":", 1) for x in open("/proc/self/status"))["VmHWM"].split()[0])
load_ensemble(sys.argv[1], max_frames=2)
before = status()
taken = load_ensemble(sys.argv[2], max_frames=20)
print(taken.num_models, taken.model_numbers[-1], (status() - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' own account")
def test_memory_follows_the_frames_that_are_taken(tmp_path, peptide_frames):
    """Acellera/htmd#436, mdtraj/mdtraj#1458: all frames would be 55 MB in float64."""
    for name, repeats in (("small", 1), ("long", 40_000)):
        save(peptide_frames[0], tmp_path / name / "topology.pdb")
        path = str(tmp_path / name / "md.xtc")
        with mdtraj.formats.XTCTrajectoryFile(path, "w") as file:
            for _ in range(max(1, repeats // 1000)):
                file.write(np.tile(peptide_frames.xyz, (min(repeats, 1000), 1, 1)))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "small"), str(tmp_path / "long")],
        capture_output=True,
        text=True,
        check=True,
    )
    models, last, megabytes = done.stdout.split()
    assert (models, last) == ("20", "200000")
    assert float(megabytes) < 20


def test_frames_of_one_trajectory_given_twice(tmp_path, peptide_frames):
    run = save(peptide_frames, tmp_path / "md.xtc")
    top = save(peptide_frames[0], tmp_path / "p.pdb")
    ensemble = read_trajectory(top, [run, run], stride=2, max_frames=4)
    assert ensemble.model_numbers == (1, 5, 6, 10)
