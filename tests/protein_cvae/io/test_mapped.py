"""Mapped trajectories: equal to those in memory, made anew when files change, never half of one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from protein_trajectories import ATOMS, save, topology_and_frames
from torch import Tensor

from protein_cvae.ensemble import Ensemble
from protein_cvae.frames_file import MappedFrames, map_frames, write_frames
from protein_cvae.io import load_ensemble, map_trajectory, mapped, read_trajectory
from protein_cvae.io.trajectory_source import TrajectorySource

NAMES = ["ALA", "HID", "ASH", "GLY", "LRT", "YPL"]
TENSORS = ("coordinates", "mask", "chain_index", "residue_numbers", "bonded")
OTHERS = ("name", "sequence", "chain_ids", "insertion_codes", "source", "model_numbers")


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_TOGETHER", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text, frames = topology_and_frames(NAMES, 17)
    return save(tmp_path / "protein", text, run1=frames[:10], run2=frames[10:])


def assert_same(ours: Ensemble, theirs: Ensemble) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in OTHERS:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert sorted(map(str, ours.report.notes)) == sorted(map(str, theirs.report.notes))


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"max_frames": 5}])
def test_mapped_frames_are_those_that_are_read(
    folder: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    theirs = load_ensemble(folder, **options)
    for _ in range(2):  # made, then found
        ours = load_ensemble(folder, cache=tmp_path / "kept", **options)
        assert isinstance(ours.coordinates, MappedFrames)
        assert_same(ours, theirs)


def test_several_readings_are_kept_beside_each_other(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for options in ({}, {"stride": 2}, {"max_frames": 3}):
        load_ensemble(folder, cache=kept, **options)
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("boxes", ["in every frame", "not in one frame"])
def test_chains_in_a_box_are_made_whole_and_followed(tmp_path: Path, boxes: str) -> None:
    text, frames = topology_and_frames(
        ["ALA", "GLY", "SER", "LEU", "VAL"], 19, chains=["A", "A", "A", "B", "B"]
    )
    edges = np.array([40.0, 42.0, 38.0])
    lengths = np.tile(edges / 10, (19, 1))
    second = slice(1 + 3 * len(ATOMS), 1 + 5 * len(ATOMS))
    if boxes == "in every frame":  # the second chain walks out, and atoms are put back one by one
        frames[:, second] += np.random.default_rng(1).normal(0, 4, (19, 1, 3)).cumsum(0)
        frames = frames - np.floor(frames / edges) * edges
    else:  # it jumps, but how it moves in between is not known
        frames[8:, second] += edges
        lengths[11] = 0.0
    save(tmp_path / "two", text)
    table = mdtraj.load_topology(str(tmp_path / "two/topology.pdb"))
    xyz, angles = (frames / 10).astype(np.float32), np.full((19, 3), 90.0)
    run = mdtraj.Trajectory(xyz, table, unitcell_lengths=lengths, unitcell_angles=angles)
    run.save_dcd(str(tmp_path / "two/run.dcd"))
    files = (tmp_path / "two/topology.pdb", [tmp_path / "two/run.dcd"])
    theirs = read_trajectory(*files)
    assert bool(theirs.report.of_kind("periodic image")) == (boxes == "in every frame")
    assert bool(theirs.report.of_kind("periodic box")) == (boxes == "in every frame")
    assert_same(map_trajectory(*files, tmp_path / "kept"), theirs)


def test_residues_that_are_broken_in_some_frames_are_masked_there(tmp_path: Path) -> None:
    text, frames = topology_and_frames(NAMES, 11)
    frames[9, 1 + 2 * len(ATOMS)] += 3.0  # N of the third residue
    folder = save(tmp_path / "broken", text, run=frames)
    ours = load_ensemble(folder, cache=tmp_path / "kept")
    assert (~ours.mask).nonzero().tolist() == [[9, 2]]
    assert_same(ours, load_ensemble(folder))


def test_text_frames_are_read_on_from_the_part_before(folder: Path, tmp_path: Path) -> None:
    run = mdtraj.load(str(folder / "run1.xtc"), top=str(folder / "topology.pdb"))
    run.save_mdcrd(str(tmp_path / "run.mdcrd"))
    files = (folder / "topology.pdb", [tmp_path / "run.mdcrd"])
    assert_same(map_trajectory(*files, tmp_path / "kept"), read_trajectory(*files))


def test_what_a_mapping_is_selected_from(folder: Path, tmp_path: Path) -> None:
    ours, theirs = load_ensemble(folder, cache=tmp_path / "kept"), load_ensemble(folder)
    for keep in ([1, 2, 3], [0, 2, 5], [4]):
        chosen = torch.zeros(6, dtype=torch.bool)
        chosen[keep] = True
        selected = ours.select_residues(chosen)
        assert isinstance(selected.coordinates, MappedFrames) == (keep != [0, 2, 5])
        assert torch.equal(selected.coordinates, theirs.select_residues(chosen).coordinates)
        again = selected.select_residues(torch.ones(len(keep), dtype=torch.bool))
        assert torch.equal(again.coordinates, selected.coordinates)
    models = ours.select_models([3, 1])
    assert type(models.coordinates) is Tensor
    assert torch.equal(models.coordinates, theirs.coordinates[[3, 1]])


def test_a_pickled_mapping_is_a_name(tmp_path: Path) -> None:
    frames = torch.randn(200, 30, 3, 3)
    write_frames(tmp_path / "frames.npy", (200, 30), frames.split(70))
    mapping = map_frames(tmp_path / "frames.npy", 4, 20)
    text = bytes(ForkingPickler.dumps(mapping))  # as loader workers under spawn get it
    assert len(text) < 1000
    again = pickle.loads(text)
    assert isinstance(again, MappedFrames)
    assert torch.equal(again, frames[:, 4:20])
    assert np.array_equal(np.load(tmp_path / "frames.npy"), frames.numpy())  # an ordinary file


def test_writing_to_a_mapping_leaves_the_file(tmp_path: Path) -> None:
    frames = torch.randn(5, 3, 3, 3)
    write_frames(tmp_path / "frames.npy", (5, 3), [frames])
    mapping = map_frames(tmp_path / "frames.npy")
    mapping += 1
    assert torch.equal(map_frames(tmp_path / "frames.npy"), frames)


@pytest.mark.parametrize("change", ["frames", "time alone", "topology"])
def test_what_is_kept_is_made_anew_when_a_file_changes(
    folder: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    before = load_ensemble(folder, cache=kept)
    run, topology = folder / "run2.xtc", folder / "topology.pdb"
    made = _counted(monkeypatch)
    load_ensemble(folder, cache=kept)
    assert made == []
    if change == "frames":
        text, frames = topology_and_frames(NAMES, 17, seed=3)
        save(folder, text, run2=frames[10:])
    elif change == "time alone":
        os.utime(run, ns=(run.stat().st_atime_ns, run.stat().st_mtime_ns + 1_000_000))
    else:  # of equal size, within the same instant
        about = topology.stat()
        topology.write_text(topology.read_text().replace("GLY", "SER"))
        os.utime(topology, ns=(about.st_atime_ns, about.st_mtime_ns))
    after = load_ensemble(folder, cache=kept)
    assert len(made) == 1
    assert_same(after, load_ensemble(folder))
    assert torch.equal(after.coordinates, before.coordinates) == (change != "frames")
    assert len(list(kept.iterdir())) == 1  # the old one is gone


def test_of_two_processes_that_convert_the_first_to_end_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, write = tmp_path / "kept", mapped._write
    first: list[Ensemble] = []

    def slow(source: TrajectorySource, partial: Path) -> dict[str, object]:
        monkeypatch.setattr(mapped, "_write", write)
        monkeypatch.setattr(os, "getpid", lambda: 1)  # another one, meanwhile
        first.append(load_ensemble(folder, cache=kept))
        return write(source, partial)

    monkeypatch.setattr(mapped, "_write", slow)
    second = load_ensemble(folder, cache=kept)
    assert_same(second, first[0])
    (made,) = kept.iterdir()
    before = (made / "frames.npy").stat().st_ino
    load_ensemble(folder, cache=kept)
    assert (made / "frames.npy").stat().st_ino == before


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    write = mapped._write

    def counting(source: TrajectorySource, folder: Path) -> dict[str, object]:
        made.append(folder)
        return write(source, folder)

    monkeypatch.setattr(mapped, "_write", counting)
    return made


def test_a_conversion_that_breaks_off_leaves_nothing_that_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    whole = mapped._backbones

    def breaking(source: TrajectorySource) -> Iterator[mapped.Backbone]:
        yield next(whole(source))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mapped, "_backbones", breaking)
        with pytest.raises(KeyboardInterrupt):
            load_ensemble(folder, cache=kept)
    assert list(kept.iterdir()) == []
    # What a killed process leaves has another name, and all but the frames of the end.
    load_ensemble(folder, cache=kept)
    (made,) = kept.iterdir()
    partial = made.rename(kept / f".{made.name}.1.partial")
    frames = (partial / "frames.npy").read_bytes()
    (partial / "frames.npy").write_bytes(frames[: len(frames) // 2])
    assert_same(load_ensemble(folder, cache=kept), load_ensemble(folder))
    assert made.is_dir()


@pytest.mark.parametrize("file", ["frames.npy", "mask.npy"])
def test_what_was_damaged_later_is_refused_by_name(folder: Path, tmp_path: Path, file: str) -> None:
    kept = tmp_path / "kept"
    load_ensemble(folder, cache=kept)
    (made,) = kept.iterdir()
    content = (made / file).read_bytes()
    (made / file).write_bytes(content[: len(content) - 8])
    with pytest.raises(ValueError, match=f"{made.name}.*made anew"):
        load_ensemble(folder, cache=kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side_chains": True}, "side_chains"),
        ({"min_models": 2}, "min_models"),
        ({"max_residues": 9}, "max_residues"),
    ],
)
def test_what_is_not_kept_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_ensemble(folder, cache=tmp_path / "kept", **change)
    assert not (tmp_path / "kept").exists()


def test_refusals_are_those_of_reading(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.xtc"):
        map_trajectory(folder / "topology.pdb", [folder / "none.xtc"], tmp_path / "kept")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"sources\.cache"):
        load_ensemble(folder, cache=tmp_path / "file" / "kept")
    text, frames = topology_and_frames(NAMES, 9)
    frames[7, 3] = np.nan
    bad = save(tmp_path / "bad", text)
    table = mdtraj.load_topology(str(bad / "topology.pdb"))
    mdtraj.Trajectory((frames / 10).astype(np.float32), table).save_dcd(str(bad / "run.dcd"))
    told = []
    for cache in (None, tmp_path / "kept"):
        with pytest.raises(ValueError, match="frame 8") as error:
            load_ensemble(bad, cache=cache)
        told.append(str(error.value))
    assert told[0] == told[1]
