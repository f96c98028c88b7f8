"""Written files: Biopython, MDTraj and our own reader give back what was written."""

from __future__ import annotations

import gzip
import warnings
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from Bio.PDB import MMCIFParser, PDBParser

from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.io import read_structure, write_ensemble
from protein_cvae.residues import ALPHABET, three_letter

PDB_DIGIT, CIF_DIGIT = 5.1e-4, 2e-5  # half of the last digit, and float32
LENGTH = 24


def make(
    sequence: str = ALPHABET + "XGAX", models: int = 3, *, codes: bool = True, seed: int = 0
) -> tuple[Ensemble, torch.Tensor, torch.Tensor]:
    """Two chains of a regular backbone with noise; spread (L,) and oxygens (M, L, 3)."""
    generator = generator_for(seed)
    length = len(sequence)
    base = torch.tensor([[0.0, 0.0, 0.0], [1.458, 0.0, 0.0], [2.008, 1.42, 0.0]])
    origins = torch.arange(length)[:, None, None] * torch.tensor([3.3, 1.62, 0.0]) - 40.0
    noise = 0.02 * torch.randn(models, length, 3, 3, generator=generator)
    half = length // 2
    chains = (torch.arange(length) >= half).long()
    numbers = torch.arange(length) - 3
    insertion = [""] * length
    if codes:
        numbers[5:8] = numbers[4]  # 1, 1A, 1B, 1C
        insertion[5:8] = "ABC"
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[[half - 1, -1]] = False
    ensemble = Ensemble(
        name="made up",
        coordinates=base + origins + noise,
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence=sequence,
        chain_index=chains,
        chain_ids=("B", "7"),
        residue_numbers=numbers,
        insertion_codes=tuple(insertion),
        bonded=bonded,
        source="test",
        model_numbers=tuple(range(2, models + 2)),
    )
    spread = 5 * torch.rand(length, generator=generator)
    oxygen = ensemble.coordinates[:, :, 2] + torch.tensor([-0.6, 1.05, 0.0])
    return ensemble, spread, oxygen


def biopython(path: Path):
    parser = MMCIFParser(QUIET=True) if ".cif" in path.name else PDBParser(QUIET=True)
    return parser.get_structure("x", str(path))


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
@pytest.mark.parametrize("with_oxygen", [False, True])
def test_biopython_reads_it_back(tmp_path, suffix, with_oxygen):
    ensemble, spread, oxygen = make()
    path = tmp_path / f"x.{suffix}"
    written = write_ensemble(
        path, ensemble, b_factor=spread, oxygen=oxygen if with_oxygen else None
    )
    assert written == path
    names = ["N", "CA", "C", "O"][: 4 if with_oxygen else 3]
    wanted = torch.cat([ensemble.coordinates, oxygen[:, :, None]], 2)[:, :, : len(names)]
    structure = biopython(path)
    assert [model.serial_num for model in structure] == [2, 3, 4]
    for m, model in enumerate(structure):
        assert [chain.id for chain in model] == ["B", "7"]
        residues = list(model.get_residues())
        assert [r.resname for r in residues] == [three_letter(x) for x in ensemble.sequence]
        assert [r.id for r in residues] == [
            (" ", number, code or " ")
            for number, code in zip(
                ensemble.residue_numbers.tolist(), ensemble.insertion_codes, strict=True
            )
        ]
        atoms = list(model.get_atoms())
        assert [a.id for a in atoms] == names * LENGTH
        assert [a.element for a in atoms] == [name[0] for name in names] * LENGTH
        found = np.stack([a.coord for a in atoms]).reshape(LENGTH, len(names), 3)
        digit = PDB_DIGIT if suffix == "pdb" else CIF_DIGIT
        assert np.abs(found - wanted[m].numpy()).max() < digit
        b = np.array([a.bfactor for a in atoms]).reshape(LENGTH, len(names))
        assert np.abs(b - spread.numpy()[:, None]).max() < 0.0051


@pytest.mark.parametrize(("suffix", "codes"), [("pdb", True), ("pdb", False), ("cif", False)])
@pytest.mark.parametrize("with_oxygen", [False, True])
def test_mdtraj_reads_it_back(tmp_path, suffix, codes, with_oxygen):
    ensemble, spread, oxygen = make(codes=codes)
    path = tmp_path / f"x.{suffix}"
    write_ensemble(path, ensemble, b_factor=spread, oxygen=oxygen if with_oxygen else None)
    frames = mdtraj.load(str(path))
    table = frames.topology
    count = 4 if with_oxygen else 3
    assert [chain.chain_id for chain in table.chains] == ["B", "7"]
    assert [chain.n_residues for chain in table.chains] == [12, 12]
    assert [r.name for r in table.residues] == [three_letter(x) for x in ensemble.sequence]
    assert [r.resSeq for r in table.residues] == ensemble.residue_numbers.tolist()
    assert [a.name for a in table.atoms] == ["N", "CA", "C", "O"][:count] * LENGTH
    wanted = torch.cat([ensemble.coordinates, oxygen[:, :, None]], 2)[:, :, :count]
    found = frames.xyz.reshape(3, LENGTH, count, 3) * 10
    assert (
        np.abs(found - wanted.numpy()).max() < (PDB_DIGIT if suffix == "pdb" else CIF_DIGIT) * 1.1
    )


@pytest.mark.parametrize("suffix", ["pdb", "cif", "ent.gz", "mmcif.gz"])
def test_own_reader_gives_the_same_ensemble(tmp_path, suffix):
    ensemble, spread, oxygen = make(ALPHABET + "WGAP")
    ensemble.mask[0, 3] = ensemble.mask[2, 0] = False  # left out of these models
    ensemble.coordinates[0, 3] = ensemble.coordinates[2, 0] = 0
    path = write_ensemble(tmp_path / f"x.{suffix}", ensemble, b_factor=spread, oxygen=oxygen)
    back = read_structure(path)
    for attribute in ("sequence", "chain_ids", "insertion_codes", "model_numbers"):
        assert getattr(back, attribute) == getattr(ensemble, attribute)
    for attribute in ("mask", "chain_index", "residue_numbers", "bonded"):
        assert torch.equal(getattr(back, attribute), getattr(ensemble, attribute))
    assert (back.coordinates - ensemble.coordinates).abs().max() < PDB_DIGIT


def test_spread_can_differ_between_models_and_defaults_to_zero(tmp_path):
    ensemble, spread, _ = make()
    per_model = torch.stack([spread, spread + 1, spread + 2])
    path = write_ensemble(tmp_path / "x.cif", ensemble, b_factor=per_model)
    found = [[a.bfactor for a in model.get_atoms()][::3] for model in biopython(path)]
    assert np.abs(np.array(found) - per_model.numpy()).max() < 1e-4
    path = write_ensemble(tmp_path / "y.pdb", ensemble)
    assert {a.bfactor for a in biopython(path).get_atoms()} == {0.0}


def test_repeated_model_numbers_are_counted_from_one(tmp_path):
    ensemble = make()[0].select_models([1, 1, 0, 1])
    assert ensemble.model_numbers == (3, 3, 2, 3)
    path = write_ensemble(tmp_path / "x.pdb", ensemble)
    assert [model.serial_num for model in biopython(path)] == [1, 2, 3, 4]


def test_chain_ids_of_mmcif_may_be_words(tmp_path):
    ensemble = replace(make()[0], chain_ids=("data_1", "heavy"))
    path = write_ensemble(tmp_path / "x.cif", ensemble)
    assert [chain.id for chain in next(iter(biopython(path)))] == ["data_1", "heavy"]
    assert read_structure(path).chain_ids == ("data_1", "heavy")


def test_same_ensemble_same_bytes_and_nothing_warned_or_left(tmp_path):
    ensemble, spread, _ = make()
    for name in ("x.pdb.gz", "y.pdb.gz"):
        write_ensemble(tmp_path / name, ensemble, b_factor=spread)
    assert (tmp_path / "x.pdb.gz").read_bytes() == (tmp_path / "y.pdb.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pdb.gz", "y.pdb.gz"]
    text = gzip.decompress((tmp_path / "x.pdb.gz").read_bytes()).decode()
    assert max(len(line) for line in text.splitlines()) <= 80
    plain = tmp_path / "z.pdb"
    plain.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PDBParser(PERMISSIVE=False).get_structure("x", str(plain))


def changed(ensemble: Ensemble, model: int, residue: int, value: float) -> Ensemble:
    coordinates = ensemble.coordinates.clone()
    coordinates[model, residue, 1, 2] = value
    return replace(ensemble, coordinates=coordinates)


MADE, SPREAD, OXYGEN = make()
OUT = "it does not fit the columns of PDB; write .cif"


@pytest.mark.parametrize(
    ("ensemble", "options", "message"),
    [
        (changed(MADE, 1, 4, 10_000.0), {}, f"model 3, residue B PHE 1: a coordinate: {OUT}"),
        (changed(MADE, 2, 0, -1000.0), {}, f"model 4, residue B ALA -3: a coordinate: {OUT}"),
        (replace(MADE, chain_ids=("AA", "B")), {}, f"chain ID 'AA': {OUT}"),
        (replace(MADE, model_numbers=(1, 2, 10_000)), {}, f"model number 10000: {OUT}"),
        (
            replace(MADE, residue_numbers=MADE.residue_numbers + 9990),
            {},
            f"residue 7 GLN 10000: {OUT}",
        ),
        (
            MADE,
            {"b_factor": SPREAD + 999},
            "model 2, residue B ALA -3: b_factor",
        ),
        (MADE, {"b_factor": SPREAD[:-1]}, "b_factor must be (24,) or (3, 24), got (23,)"),
        (
            MADE,
            {"b_factor": torch.where(torch.arange(24) == 6, torch.nan, SPREAD)},
            "b_factor is nan at model 2, residue B HIS 1B",
        ),
        (MADE, {"oxygen": OXYGEN[:1]}, "oxygen must be (3, 24, 3), got (1, 24, 3)"),
        (
            MADE,
            {"oxygen": OXYGEN / torch.tensor([1.0, 1.0, 0.0])},
            "oxygen is not finite at model 2, residue B ALA -3",
        ),
        (
            replace(MADE, mask=MADE.mask & torch.tensor([True, False, True])[:, None]),
            {},
            "model 3: no residue from B ALA -3 on is complete",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_model_and_residue(
    tmp_path, ensemble, options, message
):
    path = tmp_path / "x.pdb"
    with pytest.raises(ValueError, match="x") as caught:
        write_ensemble(path, ensemble, **options)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_pdb_cannot_hold_fits_mmcif(tmp_path):
    ensemble = changed(MADE, 1, 4, 12_345.5)
    back = read_structure(write_ensemble(tmp_path / "x.cif", ensemble))
    # far from its neighbours: read as broken, which says that the value came through
    assert "CA distance 12385" in str(back.report.of_kind("broken residue")[0])


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of \.pdb"):
        write_ensemble(tmp_path / "x.xtc", MADE)
