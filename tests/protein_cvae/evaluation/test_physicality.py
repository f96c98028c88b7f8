"""What is physical about each conformer, against MDTraj and counts by hand."""

from __future__ import annotations

import math

import mdtraj
import numpy as np
import pytest
import torch
from protein_cases import make_cases, make_ensemble, noisy

from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.physicality import passes_bioemu
from protein_cvae.evaluation.scores import score_conformers

N, CA, C = range(3)


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


@pytest.fixture(scope="module")
def spoiled(case: EvaluationCase) -> torch.Tensor:
    """Good; a broken peptide bond; two CA in one place; noise."""
    x = case.coordinates[:4].clone()
    x[1, 10:] += torch.tensor([0.0, 0.0, 3.0])
    x[2, 20, CA] = x[2, 4, CA] + 0.5
    x[3] += 0.4 * torch.randn(x[3].shape, generator=torch.Generator().manual_seed(0))
    return x


def bioemu_by_mdtraj(x: np.ndarray) -> list[bool]:
    """The filter as it is defined, with MDTraj's distances of residues."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(x.shape[1]):
        residue = topology.add_residue("ALA", chain)
        for name, element in (("N", "nitrogen"), ("CA", "carbon"), ("C", "carbon")):
            topology.add_atom(name, getattr(mdtraj.element, element), residue)
    found = mdtraj.Trajectory(x.reshape(len(x), -1, 3) / 10, topology)
    first = np.arange(x.shape[1] - 1)
    reach = mdtraj.compute_distances(
        found, np.stack((3 * first + CA, 3 * first + 3 + CA), 1), periodic=False
    )
    bond = mdtraj.compute_distances(
        found, np.stack((3 * first + C, 3 * first + 3 + N), 1), periodic=False
    )
    near, _ = mdtraj.compute_contacts(found, periodic=False)  # pairs at least three apart
    return list((reach < 0.45).all(1) & (bond < 0.2).all(1) & (near > 0.1).all(1))


def test_the_filter_of_bioemu_is_mdtrajs(case: EvaluationCase, spoiled: torch.Tensor) -> None:
    linked = case.prepared.ensemble.bonded.expand(len(spoiled), -1)
    ours = passes_bioemu(spoiled, linked).tolist()
    assert ours == bioemu_by_mdtraj(spoiled.numpy())
    assert ours[:3] == [True, False, False]


def test_counts_of_each_conformer_are_those_of_a_loop(
    case: EvaluationCase, spoiled: torch.Tensor
) -> None:
    found = score_conformers(spoiled, case).physicality
    assert {len(values) for values in found.values()} == {4}
    x = spoiled.double().numpy()
    link = np.linalg.norm(x[:, 1:, N] - x[:, :-1, C], axis=-1)
    assert found["peptide_breaks"] == (link > 1.4).sum(1).tolist()
    assert found["peptide_severed"] == (link > 2.0).sum(1).tolist()
    assert found["peptide_bonds"] == [25] * 4
    clashes = [
        sum(
            np.linalg.norm(m[i, CA] - m[j, CA]) < 3.0
            for i in range(26) for j in range(i + 2, 26)
        )
        for m in x
    ]  # fmt: skip
    assert found["ca_clashes"] == clashes
    assert clashes[2] > 0
    assert found["ramachandran_scored"] == [24] * 4
    assert found["bonds_outside_4sd"][0] == 0
    assert found["bonds_outside_4sd"][3] > 20
    assert found["valid"] == [True, False, False, False]


def test_means_over_conformers_are_the_summary(case: EvaluationCase) -> None:
    scores = score_conformers(noisy(case, 0.1), case)
    found, summary = scores.physicality, scores.validity
    total = {name: sum(values) for name, values in found.items()}
    assert total["peptide_breaks"] / total["peptide_bonds"] == pytest.approx(summary["broken"])
    share = total["ramachandran_outliers"] / total["ramachandran_scored"]
    assert share == pytest.approx(summary["outlier"])
    assert total["positive_phi"] / total["phi_scored"] == pytest.approx(summary["positive_phi"])
    mean_square = np.mean(np.square(found["angle_rms"]))
    assert math.sqrt(mean_square) == pytest.approx(summary["angle_rms"], rel=1e-5)
    right = 1 - total["left_handed_helix_windows"] / total["helix_windows"]
    assert right == pytest.approx(summary["right_handed_helix"])


def test_a_mirror_image_has_left_handed_helices(case: EvaluationCase) -> None:
    mirror = case.coordinates * torch.tensor([1.0, 1.0, -1.0])
    found = score_conformers(mirror, case).physicality
    assert found["left_handed_helix_windows"] == found["helix_windows"]
    assert min(found["helix_windows"]) > 0
