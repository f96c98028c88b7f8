"""The ensemble object and the tables of residue names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from Bio.Data.IUPACData import protein_letters_1to3
from Bio.SeqUtils import seq1

from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.residues import (
    ALPHABET,
    encode_sequence,
    one_letter,
    three_letter,
)


def make(sequence: str = "ACDEFGH", chains: tuple[int, ...] = (0, 0, 0, 1, 1, 2, 2)) -> Ensemble:
    length = len(sequence)
    chain_index = torch.tensor(chains)
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[:-1] = chain_index[1:] == chain_index[:-1]
    bonded[-1] = False
    return Ensemble(
        name="x",
        coordinates=torch.randn(4, length, 3, 3, generator=generator_for(0)),
        mask=torch.ones(4, length, dtype=torch.bool),
        sequence=sequence,
        chain_index=chain_index,
        chain_ids=("A", "B", "C"),
        residue_numbers=torch.arange(length) + 10,
        insertion_codes=("",) * (length - 1) + ("A",),
        bonded=bonded,
        source="test",
        model_numbers=(1, 2, 5, 9),
    )


def test_letters_are_biopythons():
    assert len(ALPHABET) == 20
    assert sorted(ALPHABET) == list(ALPHABET)
    for letter, name in protein_letters_1to3.items():
        assert three_letter(letter) == name.upper()
        assert one_letter(name) == letter == seq1(name)


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("MSE", "M"), (" mse ", "M"), ("PCA", "Q"), ("SME", "M"), ("SEP", "S"), ("PTR", "Y"),
        ("ASH", "D"), ("GLH", "E"), ("HID", "H"), ("HIE", "H"), ("HIP", "H"), ("HSE", "H"),
        ("CYX", "C"), ("LYN", "K"), ("LRT", "K"), ("YPL", "C"), ("SEC", "C"), ("PYL", "K"),
        ("HOH", None), ("ACE", None), ("NAG", None), ("A", None), ("DA", None), ("DAL", None),
        ("UNK", None), ("", None),
    ],
)  # fmt: skip
def test_modified_and_force_field_names(name, letter):
    assert one_letter(name) == letter


def test_sequence_to_aatype():
    sequence = ALPHABET + "X"
    assert encode_sequence(sequence).tolist() == list(range(21))
    with pytest.raises(ValueError, match="letter 'B' at position 1"):
        encode_sequence("ABC")
    with pytest.raises(ValueError, match="got 'B'"):
        three_letter("B")


def test_select_models_keeps_order_and_numbers():
    ensemble = make()
    part = ensemble.select_models([2, 0, 2])
    assert part.model_numbers == (5, 1, 5)
    assert torch.equal(part.coordinates, ensemble.coordinates[[2, 0, 2]])
    assert torch.equal(ensemble.select_models(torch.tensor([3])).mask, ensemble.mask[3:])
    with pytest.raises(IndexError, match="no model at position 4; it has 4"):
        ensemble.select_models([4])
    with pytest.raises(IndexError, match="no model at position -1"):
        ensemble.select_models([-1])
    with pytest.raises(ValueError, match="no model selected"):
        ensemble.select_models([])


def test_select_chain_and_residues():
    ensemble = make()
    middle = ensemble.select_chain(1)
    assert (middle.sequence, middle.chain_ids) == ("EF", ("B",))
    assert middle.chain_index.tolist() == [0, 0]
    assert middle.bonded.tolist() == [True, False]
    assert middle.label(1) == "B PHE 14"
    keep = torch.tensor([True, False, True, False, False, True, True])
    part = ensemble.select_residues(keep)
    assert part.sequence == "ADGH"
    assert part.chain_ids == ("A", "C")
    assert part.chain_index.tolist() == [0, 0, 1, 1]
    assert part.bonded.tolist() == [False, False, True, False]  # A and D were not neighbours
    assert part.label(3) == "C HIS 16A"
    with pytest.raises(ValueError, match="no residue selected"):
        ensemble.select_residues(torch.zeros(7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"keep: expected \(7,\) bool"):
        ensemble.select_residues(torch.arange(3))


def test_longest_counts_residues_complete_in_every_model():
    ensemble = make()
    assert ensemble.select_chain("longest").sequence == "ACD"
    mask = ensemble.mask.clone()
    mask[3, :2] = False
    assert replace(ensemble, mask=mask).select_chain("longest").sequence == "EF"
    for wrong in (3, -1, "A"):
        with pytest.raises(ValueError, match=r"chain: expected 0\.\.2 or 'longest'"):
            ensemble.select_chain(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinates": torch.zeros(4, 7, 3)}, r"coordinates must be \(4, 7, 3, 3\)"),
        ({"coordinates": torch.zeros(4, 7, 3, 3, dtype=torch.int64)}, "coordinates must be"),
        ({"coordinates": torch.full((4, 7, 3, 3), torch.nan)}, "coordinates hold NaN"),
        ({"mask": torch.ones(4, 7)}, "mask must be .* of torch.bool"),
        ({"model_numbers": (1, 2)}, "for 2 models of 7 residues"),
        ({"model_numbers": ()}, "got 0 models"),
        ({"insertion_codes": ("",)}, "insertion_codes must have 7 entries, got 1"),
        ({"chain_ids": ("A",)}, r"chain_index must be within the 1 chain_ids, got 0\.\.2"),
        ({"bonded": torch.ones(7, dtype=torch.bool)}, "bonded must be False at the last residue"),
    ],
)
def test_parts_that_do_not_agree_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **change)
