"""Side chains that are read: where Biopython and MDTraj read them, or known to be missing."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB.Structure import Structure
from heavy_files import SEQUENCE, peptide, positions, save

from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.side_chains import placed
from protein_cvae.io import load_ensemble, read_conformers, read_structure, read_trajectory
from protein_cvae.residues import SIDE_CHAINS, three_letter
from protein_cvae.side_chains import side_chain_mask

NAMES = {three_letter(x): SIDE_CHAINS[x] for x in "ACDEFGHIKLMNPQRSTVWY"}
DIGIT = 6e-4  # Å, of PDB, rounded


@pytest.fixture(scope="module")
def structure() -> Structure:
    return peptide()


def atoms(ensemble: Ensemble) -> np.ndarray:
    """(M, L, S, 3) Å, NaN where there is none."""
    side = ensemble.side_chains
    assert side is not None
    found = placed(side.local, ensemble.coordinates, ensemble.mask)
    return torch.where(side.mask[..., None], found, torch.nan).numpy()


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def edited(path: Path, change: dict[tuple[int, str], str | None]) -> Path:
    """The file with other lines for atoms of residues, in all models; None leaves them out."""
    kept = []
    for line in lines_of(path):
        key = (int(line[22:26]), line[12:16].strip()) if line.startswith("ATOM") else None
        new = change.get(key, line) if key else line
        if new is not None:
            kept.append(new)
    path.write_text("\n".join([*kept, ""]))
    return path


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_every_atom_stands_where_biopython_reads_it(tmp_path, structure, suffix):
    ensemble = read_structure(save(structure, tmp_path / f"x.{suffix}"), side_chains=True)
    assert ensemble.sequence == SEQUENCE
    assert ensemble.report.of_kind("incomplete side chain") == ()
    side = ensemble.side_chains
    assert torch.equal(side.mask, side_chain_mask(SEQUENCE).expand_as(side.mask))
    np.testing.assert_allclose(atoms(ensemble), positions(structure, NAMES), atol=DIGIT)
    assert read_structure(tmp_path / f"x.{suffix}").side_chains is None


def test_backbone_is_the_same_with_and_without_them(tmp_path, structure):
    path = save(structure, tmp_path / "x.cif")
    with_them, without = read_structure(path, side_chains=True), read_structure(path)
    assert torch.equal(with_them.coordinates, without.coordinates)
    assert with_them.report == without.report


def test_trajectories_give_those_of_their_frames(tmp_path, structure):
    path = save(structure, tmp_path / "topology.pdb")
    frames = mdtraj.load(str(path))
    frames[[2, 0, 1]].save(str(tmp_path / "run.dcd"))
    ensemble = read_trajectory(path, [tmp_path / "run.dcd"], side_chains=True)
    wanted = positions(structure, NAMES)[[2, 0, 1]]
    np.testing.assert_allclose(atoms(ensemble), wanted, atol=DIGIT)
    # The box cuts a side chain off; the chain itself is whole.
    edge = 60.0
    frames.unitcell_lengths = np.full((3, 3), edge / 10)
    frames.unitcell_angles = np.full((3, 3), 90.0)
    rows = frames.topology.select("sidechain and resid 5")
    frames.xyz[1, rows] += [edge / 10, 0, -edge / 10]
    frames.save(str(tmp_path / "cut.dcd"))
    cut = read_trajectory(path, [tmp_path / "cut.dcd"], side_chains=True)
    np.testing.assert_allclose(atoms(cut), positions(structure, NAMES), atol=DIGIT)


def test_other_names_and_modified_residues(tmp_path, structure):
    path = save(structure, tmp_path / "x.pdb")
    whole = atoms(read_structure(path, side_chains=True))
    text = path.read_text()
    text = text.replace(" SD  MET", "SE   MSE").replace(" MET ", " MSE ")
    text = text.replace(" CD1 ILE", " CD  ILE").replace(" SER ", " SEP ").replace(" HIS ", " HID ")
    path.write_text(text)
    ensemble = read_structure(path, side_chains=True)
    assert ensemble.sequence == SEQUENCE
    np.testing.assert_array_equal(atoms(ensemble), whole)


def test_missing_and_wrong_atoms_are_missing_by_name(tmp_path, structure):
    path = save(structure, tmp_path / "x.pdb")
    lysine, arginine = SEQUENCE.index("K") + 1, SEQUENCE.index("R") + 1
    origin = (
        f"ATOM    999  NZ  LYS A{lysine:4d}       0.000   0.000   0.000  1.00  0.00           N"
    )
    ensemble = read_structure(
        edited(path, {(lysine, "NZ"): origin, (arginine, "NH2"): None}), side_chains=True
    )
    side = ensemble.side_chains
    lacking = (side_chain_mask(SEQUENCE) & ~side.mask).nonzero().tolist()
    assert {(i, s) for _, i, s in lacking} == {(lysine - 1, 4), (arginine - 1, 6)}
    notes = ensemble.report.of_kind("incomplete side chain")
    assert [(note.model, note.residue, note.detail) for note in notes] == [
        (None, f"A LYS {lysine}", "no NZ"),
        (None, f"A ARG {arginine}", "no NH2"),
    ]
    assert side.complete(SEQUENCE).logical_not().nonzero()[:, 1].tolist() == 3 * [
        lysine - 1, arginine - 1
    ]  # fmt: skip


def test_alternate_locations_follow_the_backbone(tmp_path, structure):
    path = save(structure, tmp_path / "x.pdb")
    number = SEQUENCE.index("L") + 1
    lines = []
    for line in lines_of(path):
        if line.startswith("ATOM") and int(line[22:26]) == number:
            moved = f"{float(line[46:54]) + 5.0:8.3f}"
            lines.append(f"{line[:16]}A{line[17:54]}  0.40{line[60:]}")
            lines.append(f"{line[:16]}B{line[17:46]}{moved}  0.60{line[60:]}")
        else:
            lines.append(line)
    path.write_text("\n".join([*lines, ""]))
    found = atoms(read_structure(path, side_chains=True))
    wanted = positions(structure, NAMES)
    wanted[:, number - 1] += [0, 0, 5.0]
    np.testing.assert_allclose(found, wanted, atol=DIGIT)


def test_models_with_other_numbers_are_put_in_their_places(tmp_path, structure):
    first = save(structure, tmp_path / "a.pdb")
    second = tmp_path / "b.pdb"
    shifted = [
        f"{line[:22]}{int(line[22:26]) + 40:4d}{line[26:]}" if line.startswith("ATOM") else line
        for line in lines_of(first)
        if not (line.startswith("ATOM") and int(line[22:26]) == 10)
    ]
    second.write_text("\n".join([*shifted, ""]))
    ensemble = read_conformers([first, second], side_chains=True)
    found, wanted = atoms(ensemble), positions(structure, NAMES)
    np.testing.assert_allclose(found[:3], wanted, atol=DIGIT)
    wanted[:, 9] = np.nan
    np.testing.assert_allclose(found[3:], wanted, atol=DIGIT)


def test_a_backbone_alone_has_none(tmp_path, structure):
    path = save(structure, tmp_path / "x.pdb")
    backbone = [
        line for line in lines_of(path)
        if not line.startswith("ATOM") or line[12:16].strip() in ("N", "CA", "C", "O")
    ]  # fmt: skip
    path.write_text("\n".join([*backbone, ""]))
    ensemble = load_ensemble(path, side_chains=True)
    assert not bool(ensemble.side_chains.mask.any())
    assert ensemble.report.notes == ()
