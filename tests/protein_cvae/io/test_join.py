"""Models of one protein with other residue numbers: offsets, gaps, mutations, missing ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from protein_data import make_ensemble

from protein_cvae.ensemble import Ensemble
from protein_cvae.io import load_ensemble, read_structure, write_ensemble

PDB = 1e-3  # Å, rounding
MODELS = 4


@pytest.fixture(scope="module")
def whole() -> Ensemble:
    return make_ensemble("one", (30,), MODELS)


@pytest.fixture(scope="module")
def dimer() -> Ensemble:
    return make_ensemble("dimer", (20, 26), MODELS)


def part(ensemble: Ensemble, first: int, stop: int) -> Ensemble:
    keep = torch.zeros(ensemble.length, dtype=torch.bool)
    keep[first:stop] = True
    return ensemble.select_residues(keep)


def mutated(ensemble: Ensemble, position: int) -> Ensemble:
    letter = "W" if ensemble.sequence[position] != "W" else "A"
    sequence = ensemble.sequence[:position] + letter + ensemble.sequence[position + 1 :]
    return replace(ensemble, sequence=sequence)


def renumbered(ensemble: Ensemble, numbers: list[int]) -> Ensemble:
    return replace(ensemble, residue_numbers=torch.tensor(numbers))


def write(folder: Path, ensemble: Ensemble, changed: dict[int, Ensemble]) -> Path:
    """A file for each model; those of ``changed`` in place of the model at that position."""
    folder.mkdir(exist_ok=True)
    for m in range(ensemble.num_models):
        one = changed.get(m, ensemble).select_models([m])
        write_ensemble(folder / f"c{m}.pdb", replace(one, model_numbers=(1,)))
    return folder


OFFSETS = {
    "by one": [i + 1 for i in range(1, 31)],
    "by a hundred": [i + 100 for i in range(1, 31)],
    "below zero": [i - 15 for i in range(1, 31)],
    "a gap": [*range(1, 11), *range(41, 61)],
    "a gap of one behind the half": [*range(1, 16), *range(17, 32)],
    "a gap behind the half that no number bridges": [*range(1, 16), *range(41, 56)],
    "a gap behind two thirds": [*range(1, 21), *range(41, 51)],
}


@pytest.mark.parametrize("numbers", OFFSETS.values(), ids=OFFSETS)
def test_other_numbers_give_what_equal_numbers_give(
    whole: Ensemble, numbers: list[int], tmp_path: Path
) -> None:
    by_hand = load_ensemble(write(tmp_path / "hand", whole, {}))
    other = renumbered(whole, numbers)
    found = load_ensemble(write(tmp_path / "found", whole, {1: other, 3: other}))
    assert torch.equal(found.coordinates, by_hand.coordinates)
    torch.testing.assert_close(found.coordinates, whole.coordinates, rtol=0, atol=PDB)
    assert bool(found.mask.all())
    assert torch.equal(found.bonded, by_hand.bonded)
    assert found.residue_numbers.tolist() == list(range(1, 31))
    assert found.sequence == whole.sequence
    notes = found.report.of_kind("matched by sequence alignment")
    assert [(note.model, note.residue) for note in notes] == [(2, "chain A"), (4, "chain A")]
    # Models of one file are no different.
    text = "".join(
        f"MODEL     {m + 1:4d}\n"
        + "".join(
            line + "\n"
            for line in (tmp_path / f"found/c{m}.pdb").read_text().splitlines()
            if line.startswith("ATOM")
        )
        + "ENDMDL\n"
        for m in range(MODELS)
    )
    (tmp_path / "all.pdb").write_text(text + "END\n")
    one = read_structure(tmp_path / "all.pdb")
    assert torch.equal(one.coordinates, by_hand.coordinates)


def test_a_mutated_residue_is_refused_or_left_out(whole: Ensemble, tmp_path: Path) -> None:
    other = mutated(whole, 11)
    folder = write(tmp_path / "x", whole, {2: other})
    with pytest.raises(ValueError, match="set incomplete: drop") as caught:
        load_ensemble(folder)
    said = str(caught.value)
    assert f"{whole.label(11)} of {folder / 'c0.pdb'} (model 1)" in said
    assert f"{other.label(11)} of {folder / 'c2.pdb'} (model 3)" in said
    assert "29 residues in common by sequence alignment" in said
    found = load_ensemble(folder, drop=True)
    expected = torch.ones(MODELS, 30, dtype=torch.bool)
    expected[2, 11] = False
    assert torch.equal(found.mask, expected)
    assert found.sequence == whole.sequence
    wanted = whole.coordinates * expected[..., None, None]
    torch.testing.assert_close(found.coordinates, wanted, rtol=0, atol=PDB)
    (note,) = found.report.of_kind("left out")
    assert (note.model, note.residue, note.detail) == (3, other.label(11), "of c2.pdb")
    assert f"left out {other.label(11)} (in 1 models)" in found.summary()
    # The other way round the mutant gives letter and number.
    first = load_ensemble(write(tmp_path / "y", whole, {0: other}), drop=True)
    assert first.sequence == other.sequence
    assert first.mask[:, 11].tolist() == [True, False, False, False]


def test_ends_that_a_renumbered_model_lacks_or_has_in_excess(
    whole: Ensemble, tmp_path: Path
) -> None:
    """What the first model has is masked where it is absent; what it lacks has no place."""
    shorter = renumbered(part(whole, 2, 30), list(range(1, 29)))
    found = load_ensemble(write(tmp_path / "x", whole, {1: shorter}))
    assert found.mask.all(0).tolist() == [False, False] + 28 * [True]
    assert found.mask[1].tolist() == found.mask.all(0).tolist()
    wanted = whole.coordinates[:, 2:]
    torch.testing.assert_close(found.coordinates[:, 2:], wanted, rtol=0, atol=PDB)
    absent = [note.residue for note in found.report.of_kind("absent residue")]
    assert absent == [whole.label(0), whole.label(1)]
    folder = write(tmp_path / "y", whole, {0: shorter})
    with pytest.raises(ValueError, match=rf"{whole.label(0)}, {whole.label(1)} of .*c1\.pdb"):
        load_ensemble(folder)
    found = load_ensemble(folder, drop=True)
    assert found.sequence == whole.sequence[2:]
    torch.testing.assert_close(found.coordinates, wanted, rtol=0, atol=PDB)
    assert len(found.report.of_kind("left out")) == 2 * (MODELS - 1)


def test_an_end_that_a_model_with_the_same_numbers_has_in_excess(
    whole: Ensemble, tmp_path: Path
) -> None:
    """Numbers give it a place, so it needs no option."""
    found = load_ensemble(write(tmp_path / "x", whole, {0: part(whole, 0, 28)}))
    assert found.mask[0].tolist() == 28 * [True] + [False, False]
    assert found.mask[1:].all()
    assert not found.report.of_kind("matched by sequence alignment")


def test_two_chains_of_which_one_has_other_numbers(dimer: Ensemble, tmp_path: Path) -> None:
    numbers = dimer.residue_numbers.tolist()
    other = renumbered(dimer, [n + 7 for n in numbers[:20]] + numbers[20:])
    found = load_ensemble(write(tmp_path / "x", dimer, {2: other}))
    torch.testing.assert_close(found.coordinates, dimer.coordinates, rtol=0, atol=PDB)
    assert found.residue_numbers.tolist() == numbers
    assert [n.residue for n in found.report.of_kind("matched by sequence alignment")] == ["chain A"]


def test_chains_of_other_names_are_paired_in_order(dimer: Ensemble, tmp_path: Path) -> None:
    found = load_ensemble(write(tmp_path / "x", dimer, {1: replace(dimer, chain_ids=("X", "Y"))}))
    torch.testing.assert_close(found.coordinates, dimer.coordinates, rtol=0, atol=PDB)
    assert found.chain_ids == ("A", "B")
    notes = found.report.of_kind("name of a chain")
    assert [(note.model, note.residue) for note in notes] == [(2, "chain X"), (2, "chain Y")]
    alone = replace(part(dimer, 0, 20), chain_ids=("X",))
    with pytest.raises(ValueError, match=r"has chains A, B and .*c1\.pdb \(model 2\) has X; give"):
        load_ensemble(write(tmp_path / "x", dimer, {1: alone}))


def test_a_chain_that_only_a_renumbered_model_has(dimer: Ensemble, tmp_path: Path) -> None:
    """A crystal with two copies among those with one: the second is masked in these."""
    one = part(dimer, 0, 20)
    numbers = dimer.residue_numbers.tolist()
    both = renumbered(dimer, [n + 50 for n in numbers[:20]] + numbers[20:])
    found = load_ensemble(write(tmp_path / "x", one, {1: both}))
    assert found.chain_ids == ("A", "B")
    assert found.mask[:, :20].all()
    assert found.mask[:, 20:].any(1).tolist() == [False, True, False, False]
    torch.testing.assert_close(found.coordinates[1], dimer.coordinates[1], rtol=0, atol=PDB)
    assert found.select_chain("longest").chain_ids == ("A",)


def test_another_protein_among_the_conformers_is_refused(whole: Ensemble, tmp_path: Path) -> None:
    other = replace(make_ensemble("three", (30,), MODELS), name="one")
    folder = write(tmp_path / "x", whole, {3: other})
    with pytest.raises(ValueError, match=r"c3\.pdb \(model 4\) have .* they are no one protein"):
        load_ensemble(folder, drop=True)


def test_an_unknown_residue_takes_the_letter_that_other_models_know(
    whole: Ensemble, tmp_path: Path
) -> None:
    unknown = replace(whole, sequence=whole.sequence[:4] + "X" + whole.sequence[5:])
    for place in (0, 2):
        found = load_ensemble(write(tmp_path / f"x{place}", whole, {place: unknown}))
        assert found.sequence == whole.sequence
        assert bool(found.mask.all())
        (note,) = found.report.of_kind("unknown amino acid")
        assert (note.model, note.residue) == (None, whole.label(4))
