"""Figures from ensembles: which residues are drawn, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import protein_cvae
from common.errors import UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.plots.traces import profile
from protein_cvae.geometry.superposition import core_mask


def test_residues_missing_in_some_model_are_left_out(protein: Ensemble) -> None:
    mask = protein.mask.clone()
    mask[2, 5] = False
    coordinates = protein.coordinates.clone()
    coordinates[2, 5] = 0.0
    gapped = replace(protein, mask=mask, coordinates=coordinates)
    figure = protein_cvae.pl.flexibility({"real": protein, "gapped": gapped})
    numbers = np.asarray(figure.axes[0].lines[0].get_xdata())
    wanted = np.delete(protein.residue_numbers.numpy(), 5).tolist()
    assert numbers[np.isfinite(numbers)].tolist() == wanted


def test_flexibility_is_about_the_ordered_core(protein: Ensemble) -> None:
    core = core_mask(protein.coordinates, protein.bonded, protein.mask)
    assert 4 <= int(core.sum()) < protein.length
    (line,) = protein_cvae.pl.flexibility(protein).axes[0].lines
    wanted = profile(protein.coordinates[:, :, 1], core)
    np.testing.assert_allclose(line.get_ydata(), wanted)


def test_traces_have_a_panel_each(protein: Ensemble) -> None:
    few = protein.select_models([0, 3])
    figure = protein_cvae.pl.traces({"real": protein, "two": few}, views=2, flexibility=True)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["real\n6 models", "two\n2 models"]
    assert "flexibility" in titles
    assert figure.get_suptitle().startswith(f"{protein.name}: CA traces")
    single = protein_cvae.pl.traces(protein)
    assert single.axes[0].get_title() == f"{protein.name}\n6 models"


def test_what_cannot_be_drawn_is_refused(protein: Ensemble) -> None:
    other = replace(protein, sequence="A" * protein.length)
    with pytest.raises(UserError, match="'b' has another sequence"):
        protein_cvae.pl.traces({"a": protein, "b": other})
    with pytest.raises(UserError, match="views must be 1 or 2, got 3"):
        protein_cvae.pl.traces(protein, views=3)
    with pytest.raises(UserError, match="ensembles is empty"):
        protein_cvae.pl.flexibility({})
    none = replace(protein, mask=protein.mask & False)
    with pytest.raises(UserError, match="0 residues are complete"):
        protein_cvae.pl.traces(none)
