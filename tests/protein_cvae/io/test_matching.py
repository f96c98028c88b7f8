"""Residues of two files of one protein: by number, then by sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from protein_data import make_ensemble

from protein_cvae.ensemble import Ensemble
from protein_cvae.io.matching import match_residues


@pytest.fixture(scope="module")
def whole() -> Ensemble:
    return make_ensemble("one", (30,), 1)


def kept(ensemble: Ensemble, index: list[int]) -> Ensemble:
    keep = torch.zeros(ensemble.length, dtype=torch.bool)
    keep[index] = True
    return ensemble.select_residues(keep)


def test_a_residue_that_one_end_lacks(whole: Ensemble) -> None:
    """volkamerlab/opencadd#17: two entries of one protein, of which one lacks a terminus."""
    shorter = replace(kept(whole, list(range(1, 30))), source="short.pdb")
    with pytest.raises(ValueError, match=r"29 residues in common by number.*incomplete: drop"):
        match_residues(whole, shorter, drop=False)
    first, second, left_out = match_residues(whole, shorter, drop=True)
    assert first.sequence == second.sequence == whole.sequence[1:]
    assert torch.equal(first.coordinates, shorter.coordinates)
    assert left_out == f"{whole.label(0)} of {whole.source}"
    # the other way round, and with gaps on both sides
    one, two = kept(whole, [*range(10), *range(15, 30)]), kept(whole, list(range(3, 27)))
    first, second, left_out = match_residues(one, two, drop=True)
    assert first.residue_numbers.tolist() == second.residue_numbers.tolist()
    assert first.length == 19
    assert whole.label(12) in left_out
    assert whole.label(29) in left_out


@pytest.mark.parametrize("shift", [-1, 1, 100])
def test_other_numbers_are_matched_by_sequence(whole: Ensemble, shift: int) -> None:
    other = replace(whole, residue_numbers=whole.residue_numbers + shift)
    first, second, left_out = match_residues(whole, other, drop=False)
    assert (first.length, second.length, left_out) == (30, 30, "")
    shorter = kept(other, list(range(4, 30)))
    first, second, left_out = match_residues(whole, shorter, drop=True)
    assert first.residue_numbers.tolist() == list(whole.residue_numbers[4:])
    assert second.sequence == first.sequence


def test_fragments_and_loops_keep_their_numbers(whole: Ensemble) -> None:
    """Where an alignment finds no more than numbers do, they count."""
    for one, two in (
        (list(range(22)), list(range(8, 30))),
        ([*range(8), *range(12, 30)], [*range(17), *range(21, 30)]),
    ):
        first, second, _ = match_residues(kept(whole, one), kept(whole, two), drop=True)
        assert first.residue_numbers.tolist() == second.residue_numbers.tolist()
        assert [n - 1 for n in first.residue_numbers.tolist()] == sorted({*one} & {*two})


def test_another_protein_and_other_chains_are_refused(whole: Ensemble) -> None:
    other = replace(whole, sequence="W" * 30)
    with pytest.raises(ValueError, match="they are no one protein"):
        match_residues(whole, other, drop=True)
    both = make_ensemble("two", (15, 15), 1)
    with pytest.raises(ValueError, match="choose chains that agree"):
        match_residues(whole, both, drop=True)
