"""Side chains go with their models and residues."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from protein_cvae.ensemble import Ensemble
from protein_cvae.residues import ALPHABET, SIDE_CHAIN_SLOTS, SIDE_CHAINS, side_chain_slot
from protein_cvae.side_chains import SideChains, join_models, side_chain_mask


def numbered(models: int, residues: int) -> SideChains:
    """Coordinates that tell model and residue."""
    at = torch.arange(models)[:, None] * 100.0 + torch.arange(residues)
    shape = (models, residues, SIDE_CHAIN_SLOTS)
    local = at[..., None, None].expand(*shape, 3).clone()
    return SideChains(local, torch.ones(shape, dtype=torch.bool))


def test_slots_are_the_heavy_atoms_of_the_amino_acids() -> None:
    heavy = "5 6 8 9 11 4 10 8 9 8 8 8 7 9 11 6 7 7 14 12"  # with N, CA, C and O
    counts = dict(zip("ACDEFGHIKLMNPQRSTVWY", map(int, heavy.split()), strict=True))
    assert {letter: len(SIDE_CHAINS[letter]) + 4 for letter in ALPHABET} == counts
    assert side_chain_mask("GAWX").sum(-1).tolist() == [0, 1, 10, 1]
    assert side_chain_slot("I", "CD") == side_chain_slot("I", "CD1") == 3
    assert side_chain_slot("M", "SE") == side_chain_slot("M", "SD")
    assert side_chain_slot("E", "CD") == 2
    assert side_chain_slot("S", "P") is None


def test_an_ensemble_selects_them_with_models_and_residues(protein: Ensemble) -> None:
    whole = replace(protein, side_chains=numbered(protein.num_models, protein.length))
    keep = torch.zeros(protein.length, dtype=torch.bool)
    keep[[2, 5, 11]] = True
    side = whole.select_models([4, 1]).select_residues(keep).side_chains
    assert side is not None
    assert side.local[..., 0, 0].tolist() == [[402, 405, 411], [102, 105, 111]]
    with pytest.raises(ValueError, match=r"side_chains must be of 6 models of 26 residues"):
        replace(protein, side_chains=numbered(5, protein.length))


def test_complete_needs_every_atom_but_a_lone_cb() -> None:
    side = numbered(2, 4)
    side.mask[0, 1, 3] = side.mask[1, 2, 0] = side.mask[1, 1, 9] = False
    assert side.complete("GKAX").tolist() == [[True, False, True, True], [True] * 4]


def test_joined_models_need_side_chains_on_both_sides() -> None:
    joined = join_models((numbered(2, 3), numbered(1, 3)))
    assert joined is not None
    assert joined.mask.shape[0] == 3
    assert join_models((numbered(2, 3), None)) is None


def test_what_does_not_fit_is_refused() -> None:
    good = numbered(1, 2)
    with pytest.raises(ValueError, match=r"mask must be \(M, L, 10\) bool, got \(1, 2, 9\)"):
        SideChains(good.local, good.mask[..., :9])
    with pytest.raises(ValueError, match="local must be"):
        SideChains(good.local[..., :2], good.mask)
    with pytest.raises(ValueError, match="NaN or infinity"):
        SideChains(good.local / 0 * 0, good.mask)
