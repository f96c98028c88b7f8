"""The real ensembles: counts of their README, and coordinates as Biopython and MDTraj read them.

The README's table is the reference for models and residues; the independent readers see the file
as it is.  Skipped, file by file, where the data are absent (see ``EDGEWISE_DATA``).
"""

from __future__ import annotations

import gzip
import io
import os
import re
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB import MMCIFParser, PDBParser

from protein_cvae.io import find_ensembles, load_trajectory_folder, read_structure

DEFAULT = Path(__file__).parents[2].parent / "shared" / "data"
FOLDER = Path(os.environ.get("EDGEWISE_DATA", DEFAULT)) / "ensembles"
PRESENT = (FOLDER / "README.md").is_file()
NEEDS_DATA = pytest.mark.skipif(not PRESENT, reason="real ensembles not present; set EDGEWISE_DATA")
BACKBONE = ("N", "CA", "C")


def residues(words: str) -> list[int]:
    """ "2 x 40" -> [40, 40]; "24 + 13" -> [24, 13]."""
    counts = []
    for part in words.split("+"):
        match = re.fullmatch(r"(?:(\d+) x )?(\d+)", part.strip())
        assert match is not None, words
        counts += [int(match[2])] * int(match[1] or 1)
    return counts


def tables() -> tuple[dict[str, tuple[int, list[int]]], dict[str, tuple[int, list[int]]]]:
    """Models and residues of the README's two tables, by file and by folder/trajectory."""
    structures, trajectories = {}, {}
    for line in (FOLDER / "README.md").read_text().splitlines() if PRESENT else []:
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) >= 9 and cells[3].isdigit():
            structures[cells[0]] = int(cells[3]), residues(cells[4])
        elif len(cells) >= 9 and cells[4].isdigit():
            trajectories[f"{cells[0]}/{cells[1]}"] = int(cells[4]), residues(cells[5])
    return structures, trajectories


STRUCTURES, TRAJECTORIES = tables()


def cases(names: dict[str, tuple[int, list[int]]]) -> list[object]:
    return sorted(names) or [pytest.param("absent", marks=NEEDS_DATA)]


def one_model(text: str, mmcif: bool, last: bool) -> str:
    """The text with the first or last model alone: Biopython takes long for many."""
    if not mmcif:
        blocks = text.split("\nENDMDL")
        block = "\n" + blocks[-2 if last else 0]
        return block[block.index("\nMODEL ") + 1 :]
    lines = text.splitlines()
    columns = [line.split()[0] for line in lines if line.startswith("_atom_site.")]
    place = columns.index("_atom_site.pdbx_PDB_model_num")
    rows = [line for line in lines if line.startswith(("ATOM ", "HETATM "))]
    wanted = rows[-1 if last else 0].split()[place]
    kept = [row for row in rows if row.split()[place] == wanted]
    return "\n".join(["data_x", "loop_", *columns, *kept, "#", ""])


def test_readme_lists_every_file():
    if not PRESENT:
        pytest.skip("real ensembles not present; set EDGEWISE_DATA")
    found = find_ensembles([FOLDER])
    files = {path.name.split(".")[0] for path in found if path.is_file()}
    folders = {path.name for path in found if path.is_dir()}
    assert files == set(STRUCTURES)
    assert folders == {name.split("/")[0] for name in TRAJECTORIES}
    assert (len(files), len(folders), len(TRAJECTORIES)) == (60, 11, 13)


@pytest.mark.parametrize("name", cases(STRUCTURES))
def test_structure_has_the_readmes_counts_and_biopythons_atoms(name):
    (path,) = (FOLDER / "nmr").glob(f"{name}.*")
    ensemble = read_structure(path)
    models, counts = STRUCTURES[name]
    assert ensemble.name == name
    assert ensemble.num_models == models
    complete = ensemble.mask.all(0)
    found = [int((complete & (ensemble.chain_index == c)).sum()) for c in range(len(counts))]
    assert found == counts
    assert len(ensemble.chain_ids) == len(counts)
    assert bool(ensemble.mask.all())
    assert ensemble.select_chain("longest").length == max(counts)
    assert "X" not in ensemble.sequence
    # one bond less than residues in each chain: none of these chains has a gap
    assert int(ensemble.bonded.sum()) == sum(counts) - len(counts)
    mmcif = ".cif" in path.name
    text = gzip.decompress(path.read_bytes()).decode()
    labels = [
        (ensemble.chain_ids[int(chain)], int(number), code)
        for chain, number, code in zip(
            ensemble.chain_index, ensemble.residue_numbers, ensemble.insertion_codes, strict=True
        )
    ]
    for m, last in ((0, False), (-1, True)):
        parser = MMCIFParser(QUIET=True) if mmcif else PDBParser(QUIET=True)
        handle = io.StringIO(one_model(text, mmcif, last))
        (model,) = parser.get_structure(name, handle)
        whole = {
            (chain.id, residue.id[1], residue.id[2].strip()): residue
            for chain in model
            for residue in chain
            if all(atom in residue for atom in BACKBONE)
        }
        assert sorted(whole) == sorted(labels)
        wanted = np.array([[whole[label][atom].coord for atom in BACKBONE] for label in labels])
        assert np.array_equal(ensemble.coordinates[m].numpy(), wanted)


@pytest.mark.parametrize("name", cases(TRAJECTORIES))
def test_trajectory_has_the_readmes_counts_and_mdtrajs_atoms(name):
    folder, file = name.split("/")
    ensemble = load_trajectory_folder(FOLDER / "md" / folder, trajectories=[file])
    frames, counts = TRAJECTORIES[name]
    assert (ensemble.name, ensemble.num_models) == (folder, frames)
    found = torch.bincount(ensemble.chain_index).tolist()
    assert found == counts
    assert bool(ensemble.mask.all())
    gaps = {"b2ar_gs": 1}.get(folder, 0)  # in the receptor chain, as the README says
    assert int((~ensemble.bonded).sum()) == len(counts) + gaps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDTraj's, about placeholders of a unit cell
        reference = mdtraj.load(
            str(FOLDER / "md" / folder / file), top=str(FOLDER / "md" / folder / "topology.pdb")
        )
    atoms = {atom: reference.topology.select(f"name {atom}") for atom in BACKBONE}
    shared = set.intersection(
        *({reference.topology.atom(i).residue.index for i in index} for index in atoms.values())
    )
    wanted = np.stack(
        [
            reference.xyz[
                :, [i for i in index if reference.topology.atom(i).residue.index in shared]
            ]
            for index in atoms.values()
        ],
        axis=2,
    )
    moved = set()
    if folder == "gcn4":  # in four frames the second chain stands in another periodic image
        second, box = slice(counts[0], None), reference.unitcell_lengths  # a cube
        apart = (wanted[:, second, 1].mean(1) - wanted[:, : counts[0], 1].mean(1)) / box
        wanted[:, second] -= (np.round(apart) * box)[:, None, None]
        moved = {int(frame) + 1 for frame in np.flatnonzero(np.round(apart).any(1))}
        assert len(moved) == 4
    assert {note.model for note in ensemble.report.of_kind("periodic image")} == moved
    assert np.allclose(ensemble.coordinates.numpy(), wanted * 10, atol=1e-4)


@NEEDS_DATA
def test_all_trajectories_of_a_folder_follow_each_other():
    folder = FOLDER / "md" / "adk"
    together = load_trajectory_folder(folder)
    assert together.num_models == 98 + 102 + 100
    last = load_trajectory_folder(folder, trajectories=["tmd.xtc"])
    assert torch.equal(together.coordinates[200:], last.coordinates)
    few = load_trajectory_folder(folder, max_frames=30)
    assert few.model_numbers[0] == 1
    assert few.model_numbers[-1] == 300


@NEEDS_DATA
def test_defects_the_readme_names_are_reported():
    reports = {
        "1bus": ("modified residue", "A PCA 1"),
        "2juy": ("modified residue", "A SME 24"),
        "2lyw": ("modified residue", "B PCA 1"),
        "1gya": ("dropped", "NAG"),
        "1u85": ("dropped", "ZN"),
    }
    for name, (kind, residue) in reports.items():
        (path,) = (FOLDER / "nmr").glob(f"{name}.*")
        notes = read_structure(path).report.of_kind(kind)
        assert residue in [note.residue for note in notes]
    (path,) = (FOLDER / "nmr").glob("ubq_hxprobe50.*")
    assert read_structure(path).model_numbers[0] == 0
    notes = load_trajectory_folder(FOLDER / "md" / "rhodopsin", max_frames=2).report.notes
    assert {"A ASH 83", "A GLH 122", "A LRT 296", "A YPL 322", "A YPL 323", "ACE"} <= {
        note.residue for note in notes
    }
