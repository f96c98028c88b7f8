"""Heavy atoms of generated conformers: from the nearest model, packed, or refused by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB import MMCIFParser, PDBParser
from heavy_files import SEQUENCE, peptide, save

from common.align import aligned_rmsd
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation import packer, side_chains
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import same_residues
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import describe_atoms, write_bundle
from protein_cvae.generation.packer import pack
from protein_cvae.generation.side_chains import (
    carried_side_chains,
    check_atoms,
    heavy_atoms,
    nearest_models,
    with_side_chains,
)
from protein_cvae.geometry.side_chains import chi1, has_chi1, placed
from protein_cvae.io import read_structure
from protein_cvae.io.formats.fasta import sequence_ensemble
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.residues import SIDE_CHAINS
from protein_cvae.side_chains import side_chain_mask


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    path = save(peptide(5), tmp_path_factory.mktemp("heavy") / "x.cif")
    return read_structure(path, side_chains=True)


@pytest.fixture
def no_packer(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packer, side_chains):
        monkeypatch.setattr(module, "packer_installed", lambda: False)


def bare(ensemble: Ensemble) -> Ensemble:
    """Without the atoms of side chains, as of a file that has none."""
    side = ensemble.side_chains
    nothing = replace(side, local=side.local * 0, mask=side.mask & False)
    return replace(ensemble, side_chains=nothing)


def without(ensemble: Ensemble, residue: int, models: list[int]) -> Ensemble:
    """The last atom of a residue missing in models at these positions."""
    mask = ensemble.side_chains.mask.clone()
    mask[models, residue, len(SIDE_CHAINS[ensemble.sequence[residue]]) - 1] = False
    local = torch.where(mask[..., None], ensemble.side_chains.local, 0.0)
    return replace(ensemble, side_chains=replace(ensemble.side_chains, local=local, mask=mask))


def chi1_of(ensemble: Ensemble) -> torch.Tensor:
    has = has_chi1(ensemble.aatype).expand(ensemble.mask.shape)
    return chi1(ensemble.coordinates, ensemble.side_chains.local, has)


def agree(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).cos() > 0.999


def test_models_are_ranked_by_their_rmsd(heavy):
    made = replace(heavy.select_models([3, 1]), side_chains=None)
    order = nearest_models(made, heavy)
    assert order[:, 0].tolist() == [3, 1]
    ca = heavy.coordinates[:, :, 1].double()
    distances = torch.stack([aligned_rmsd(ca, ca[3].expand_as(ca))]).sort()[1]
    assert order[0].tolist() == distances[0].tolist()


def test_the_nearest_model_gives_its_rotamers(heavy):
    made = replace(heavy.select_models([3, 1]), side_chains=None)
    found = carried_side_chains(made, heavy, nearest_models(made, heavy), relieve=False)
    assert torch.equal(found.mask, side_chain_mask(SEQUENCE).expand_as(found.mask))
    new = replace(made, side_chains=found)
    assert bool(agree(chi1_of(new), chi1_of(heavy)[[3, 1]]).all())


def test_overlaps_are_relieved_by_rotamers_of_the_models_or_turns_of_them(heavy):
    made = replace(heavy, side_chains=None)
    order = nearest_models(made, heavy).flip(1)  # the farthest first
    tight = [
        replace(made, side_chains=carried_side_chains(made, heavy, order, relieve=relieve))
        for relieve in (False, True)
    ]
    before, after = (describe_atoms(e)["clashes_per_1000"] for e in tight)
    assert before > after
    turns = torch.tensor([0.0, 2 * torch.pi / 3, -2 * torch.pi / 3])
    known = (chi1_of(heavy)[:, None] + turns[:, None]).flatten(0, 1)  # (3 M, L)
    assert bool(agree(chi1_of(tight[1])[:, None], known).any(1).all())


def test_an_incomplete_residue_comes_from_the_next_nearest_model(heavy):
    arginine = SEQUENCE.index("R")
    given = without(heavy, arginine, [3])
    made = replace(heavy.select_models([3]), side_chains=None)
    order = nearest_models(made, given)
    assert order[0, 0] == 3
    found = carried_side_chains(made, given, order, relieve=False)
    chi = chi1_of(replace(made, side_chains=found))
    wanted = chi1_of(heavy)[3].clone()
    wanted[arginine] = chi1_of(heavy)[order[0, 1], arginine]
    assert bool(agree(chi[0], wanted).all())
    assert bool(found.complete(SEQUENCE).all())


def test_generated_conformers_are_complete_and_say_which_model_gave(heavy, network: ProteinCVAE):
    made = generate(network, heavy, GenerateOptions(count=3, atoms="heavy"))
    side = made.side_chains
    assert torch.equal(side.mask, side_chain_mask(SEQUENCE).expand_as(side.mask))
    nearest = nearest_models(made, heavy)[:, 0]
    notes = made.report.of_kind("side chains")
    assert [(n.model, n.detail) for n in notes] == [
        (k + 1, f"carried from model {heavy.model_numbers[m]}")
        for k, m in enumerate(nearest.tolist())
    ]
    # The backbone is what it is without them.
    bare_ones = generate(network, heavy, GenerateOptions(count=3, atoms="backbone"))
    assert bare_ones.side_chains is None
    assert torch.equal(made.coordinates, bare_ones.coordinates)


def test_a_path_takes_those_of_the_nearer_end(heavy, network: ProteinCVAE):
    first, second = heavy.select_models([0]), heavy.select_models([4])
    assert same_residues(first, second).side_chains.mask.shape[0] == 2
    path = interpolate(network, first, second, InterpolateOptions(4, atoms="heavy"))
    details = [note.detail for note in path.report.of_kind("side chains")]
    assert details[0] == "carried from model 1"
    assert details[-1] == "carried from model 2"
    assert bool(path.side_chains.complete(SEQUENCE).all())


def test_written_files_hold_every_heavy_atom(tmp_path: Path, heavy, network: ProteinCVAE):
    made = generate(network, heavy, GenerateOptions(count=2))
    atoms, mask = heavy_atoms(made)
    wanted = atoms[mask].numpy()
    names = [
        name
        for i, letter in enumerate(SEQUENCE)
        for name in ("N", "CA", "C", "O", *SIDE_CHAINS[letter], *["OXT"] * (i == 21))
    ]
    for suffix in ("pdb", "cif"):
        path = write_bundle(tmp_path / f"x.{suffix}", made)
        parser = PDBParser(QUIET=True) if suffix == "pdb" else MMCIFParser(QUIET=True)
        structure = parser.get_structure("x", str(path))
        assert [atom.id for atom in structure[1].get_atoms()] == names
        assert all(atom.element == atom.id[0] for atom in structure.get_atoms())
        read = [a.coord for a in structure.get_atoms() if a.id != "OXT"]
        assert np.abs(np.array(read) - wanted).max() < 6e-4
        for residue in structure.get_residues():  # one B-factor a residue
            assert len({atom.bfactor for atom in residue}) == 1
        frames = mdtraj.load(str(path))
        assert [atom.name for atom in frames.topology.atoms] == names
        kept = [atom.index for atom in frames.topology.atoms if atom.name != "OXT"]
        assert np.abs(10 * frames.xyz[:, kept].reshape(-1, 3) - wanted).max() < 6e-4
        back = read_structure(path, side_chains=True)
        placed_back = placed(back.side_chains.local, back.coordinates, back.mask)
        beyond = atoms[:, :, 4:][mask[:, :, 4:]]
        assert (placed_back[back.side_chains.mask] - beyond).abs().max() < 2e-3


def test_auto_leaves_them_out_and_says_why(heavy, network: ProteinCVAE, no_packer: None):
    lysine = SEQUENCE.index("K")
    for given, why in (
        (bare(heavy), "the input has no side chains, and packing them needs pyfaspr"),
        (
            without(heavy, lysine, list(range(5))),
            f"no model has a complete side chain of A LYS {lysine + 1}",
        ),
    ):
        made = generate(network, given, GenerateOptions(count=1))
        assert made.side_chains is None
        (note,) = made.report.of_kind("side chains left out")
        assert note.detail.startswith(why)
        assert "pip install 'edgewise[sidechains]'" in note.detail
        with pytest.raises(ValueError, match=r"atoms heavy: .*edgewise\[sidechains\]"):
            generate(network, given, GenerateOptions(count=1, atoms="heavy"))
    backbone = GenerateOptions(count=1, atoms="backbone")
    assert generate(network, bare(heavy), backbone).report.notes == ()


def test_sequence_mode_uses_no_side_chain_of_the_input(heavy, network, no_packer: None):
    with pytest.raises(ValueError, match="atoms heavy: the input has no side chains"):
        generate(network, heavy, GenerateOptions("sequence", count=1, atoms="heavy"))
    # Nothing to pack: alanine and glycine have CB alone.
    short = sequence_ensemble("GAGAAG")
    made = generate(network, short, GenerateOptions("sequence", count=2, atoms="backbone"))
    assert with_side_chains(made, None, "auto").side_chains is not None


def test_words_are_checked():
    with pytest.raises(ValueError, match="atoms must be one of auto, heavy, backbone, got 'all'"):
        GenerateOptions(atoms="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="atoms must be one of"):
        InterpolateOptions(atoms="all")  # type: ignore[arg-type]


def faspr_of(change: object) -> ModuleType:
    module = ModuleType("pyfaspr")
    module.run_FASPR = change  # type: ignore[attr-defined]
    return module


def test_a_packer_that_fails_is_named(heavy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packer, "packer_installed", lambda: True)

    def fail(pdb: str, sequence: str) -> str:
        raise FileNotFoundError("output.pdb")

    monkeypatch.setitem(sys.modules, "pyfaspr", faspr_of(fail))
    with pytest.raises(
        ValueError, match=r"FASPR failed on conformer 1 \(FileNotFoundError: output"
    ):
        pack(heavy)
    monkeypatch.setitem(sys.modules, "pyfaspr", faspr_of(lambda pdb, sequence: pdb))
    with pytest.raises(ValueError, match="FASPR placed only a part of residue A ALA 2 of conf"):
        pack(heavy)
    monkeypatch.setattr(packer, "packer_installed", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'edgewise\[sidechains\]'"):
        pack(heavy)


class TestPacker:
    """FASPR itself."""

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("pyfaspr", reason="edgewise[sidechains] is not installed")

    def test_all_atoms_of_all_residues(self, heavy):
        given = replace(heavy.select_models([0, 1]), sequence=SEQUENCE[:-1] + "X")
        side = pack(given)
        assert torch.equal(side.mask, side_chain_mask(given.sequence).expand_as(side.mask))
        atoms = placed(side.local, given.coordinates, given.mask)
        for i, letter in enumerate(SEQUENCE):
            for s in range(1, len(SIDE_CHAINS[letter])):  # bonded to one before it
                near = (atoms[:, i, s, None] - atoms[:, i, :s]).norm(dim=-1).min(-1)[0]
                assert ((near > 1.15) & (near < 1.95)).all(), (letter, s)

    def test_residues_that_are_held_stay(self, heavy):
        free = torch.zeros_like(heavy.mask)
        free[:, 5:9] = True
        side = pack(heavy, heavy.side_chains, free)
        assert torch.equal(side.local[:, 9:], heavy.side_chains.local[:, 9:])
        assert not torch.equal(side.local[:, 5:9], heavy.side_chains.local[:, 5:9])

    def test_residues_without_atoms_are_packed_around_the_others(self, heavy):
        lysine = SEQUENCE.index("K")
        given = without(heavy, lysine, list(range(5)))
        made = with_side_chains(replace(heavy, side_chains=None), given, "heavy")
        assert bool(made.side_chains.complete(SEQUENCE).all())
        (note,) = made.report.of_kind("side chain packed")
        assert note.residue == f"A LYS {lysine + 1}"
        check_atoms(made, bare(heavy), "heavy")
        assert bool(with_side_chains(made, None, "auto").side_chains.complete(SEQUENCE).all())


def test_openmm_takes_what_is_written(tmp_path: Path, heavy, network: ProteinCVAE):
    """PDBFixer misses nothing but hydrogens, and amber14 has parameters for every residue."""
    pdbfixer = pytest.importorskip("pdbfixer", reason="PDBFixer is not installed")
    app = pytest.importorskip("openmm.app", reason="OpenMM is not installed")
    made = generate(network, heavy, GenerateOptions(count=1, atoms="heavy"))
    fixer = pdbfixer.PDBFixer(filename=str(write_bundle(tmp_path / "x.pdb", made)))
    fixer.findMissingResidues()
    fixer.findNonstandardResidues()
    fixer.findMissingAtoms()
    assert (fixer.missingResidues, fixer.nonstandardResidues) == ({}, [])
    assert (fixer.missingAtoms, fixer.missingTerminals) == ({}, {})
    fixer.addMissingHydrogens(7.0)
    system = app.ForceField("amber14-all.xml").createSystem(fixer.topology)
    assert system.getNumParticles() > int(heavy_atoms(made)[1].sum())
