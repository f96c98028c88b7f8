"""Validity of ideal chains, of chains with one thing wrong each, and of real models."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.PDB import PDBParser
from torch import Tensor

from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.frames import virtual_cb
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.validity import Validity, validity
from protein_cvae.residues import encode_sequence

DOUBLE = torch.float64
LENGTH = 24


def chain(phi: float, psi: float, omega: float = 180.0, length: int = LENGTH) -> Tensor:
    """(1, L, 3, 3) ideal backbone of constant torsions in degrees."""
    torsions = (torch.full((1, length), math.radians(x), dtype=DOUBLE) for x in (phi, psi, omega))
    return build_backbone(Torsions(*torsions), bonded(length)[None])


def bonded(length: int = LENGTH) -> Tensor:
    flags = torch.ones(length, dtype=torch.bool)
    flags[-1] = False
    return flags


def report(x: Tensor, **arguments: Tensor) -> Validity:
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    return validity(x, mask, bonded(x.shape[1]), encode_sequence("A" * x.shape[1]), **arguments)


def test_ideal_helix_is_valid():
    helix = chain(-57, -47)
    found = report(helix, cb=virtual_cb(helix))
    assert float(found.bond_z.abs().max()) < 1e-9
    assert float(found.angle_z.abs().max()) < 1e-6
    summary = found.summary()
    for key in ("inside", "favoured", "right_handed_helix", "left_chirality", "valid"):
        assert summary[key] == 1.0, key
    for key in ("broken", "severed", "cis", "outlier", "positive_phi", "clash"):
        assert summary[key] == 0.0, key
    assert int(found.right_helix) == LENGTH - 3


def test_mirror_image_is_wrong_handed():
    """Lengths, angles and clashes cannot tell a mirror image; handedness and torsions do."""
    mirror = chain(-57, -47) * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    cb = virtual_cb(chain(-57, -47)) * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    summary = report(mirror, cb=cb).summary()
    assert summary["inside"] == 1.0
    assert summary["right_handed_helix"] == 0.0
    assert summary["left_chirality"] == 0.0
    assert summary["positive_phi"] == 1.0


def test_strand_has_no_helix():
    summary = report(chain(-120, 130)).summary()
    assert math.isnan(summary["right_handed_helix"])
    assert math.isnan(summary["left_chirality"])


@pytest.mark.parametrize(("gap", "broken", "severed"), [(1.39, 0, 0), (1.6, 1, 0), (2.5, 1, 1)])
def test_peptide_breaks(gap, broken, severed):
    x = chain(-120, 130)
    along = x[:, 10, 0] - x[:, 9, 2]
    x[:, 10:] += ((gap / 1.329 - 1) * along)[:, None, None]
    found = report(x)
    assert int(found.broken.sum()) == broken
    assert int(found.severed.sum()) == severed
    assert not found.valid.any()  # 1.39 Å is no break, but more than 4 sd from 1.329
    expected = (gap - 1.329) / 0.014
    assert float(found.bond_z[0, 9, 2]) == pytest.approx(expected, abs=1e-6)
    assert not found.inside[0, 9]
    assert float(found.bond_z[0, 9, :2].abs().max()) < 1e-6


def test_a_link_that_should_not_be_there_is_no_break():
    x = chain(-120, 130)
    x[:, 10:] += 30.0
    mask, aatype = torch.ones(1, LENGTH, dtype=torch.bool), encode_sequence("A" * LENGTH)
    two_chains = bonded()
    two_chains[9] = False
    summary = validity(x, mask, two_chains, aatype).summary()
    assert summary["broken"] == 0.0
    assert summary["valid"] == 1.0


@pytest.mark.parametrize(
    ("omega", "cis", "inside", "deviation"),
    [
        (180, 0, 1, 0),
        (0, 1, 1, 0),
        (-160, 0, 1, 20),
        (150, 0, 0, 30),
        (30, 1, 0, 30),
        (-20, 1, 1, 20),
    ],
)
def test_omega_is_measured_from_the_nearer_planar_state(omega, cis, inside, deviation):
    found = report(chain(-120, 130, omega, length=4))
    assert bool(found.cis[0, 1]) == bool(cis)
    assert bool(found.inside[0, 1]) == bool(inside)
    assert math.degrees(found.omega_deviation[0, 1]) == pytest.approx(deviation, abs=1e-6)


def test_clash_is_counted_once_and_not_for_neighbours():
    x = chain(-120, 130)
    assert int(report(x).clashes) == 0
    assert int(report(chain(-120, 130, 0.0, length=2)).clashes) == 0  # cis neighbours at 2.9 Å
    moved = x.clone()
    moved[:, 20] += x[:, 3, 1:2] - x[:, 20, 1:2] + torch.tensor([0.0, 0.0, 0.5], dtype=DOUBLE)
    ca = moved[0, :, 1].numpy()
    distance = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    expected = sum(distance[i, j] < 3.0 for i in range(LENGTH) for j in range(i + 2, LENGTH))
    assert expected >= 1
    assert int(report(moved).clashes) == expected
    # unbonded neighbours can clash
    near = torch.cat((x[:, :1], x[:, :1] + 0.5), 1)
    mask, aatype = torch.ones(1, 2, dtype=torch.bool), encode_sequence("AA")
    assert int(validity(near, mask, torch.zeros(2, dtype=torch.bool), aatype).clashes) == 1


def test_masked_residues_do_not_matter():
    helix = chain(-57, -47)
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    mask[0, 12] = False
    aatype = encode_sequence("A" * LENGTH)
    spoiled = helix.clone()
    spoiled[0, 12] = math.nan
    first, second = (validity(x, mask, bonded(), aatype) for x in (helix, spoiled))
    assert first.summary() == second.summary()
    assert not first.linked[0, 11]
    assert not first.inside[0, 12]
    with pytest.raises(ValueError, match="NaN"):
        report(spoiled)


def test_rotation_and_batch_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    x = torch.cat((chain(-57, -47), chain(-120, 130)))
    x = x + 0.05 * torch.randn(x.shape, generator=generator, dtype=DOUBLE)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=DOUBLE))
    rotation = rotation * torch.linalg.det(rotation)
    both, turned = report(x), report(x @ rotation.mT + 100.0)
    assert torch.allclose(both.angle_z, turned.angle_z, atol=1e-8)
    assert torch.equal(both.outlier, turned.outlier)
    assert torch.equal(both.clashes, turned.clashes)
    for index in range(2):
        alone = report(x[index : index + 1])
        assert torch.equal(alone.inside[0], both.inside[index])
        assert torch.equal(alone.right_helix[0], both.right_helix[index])


@pytest.mark.parametrize("between", [0, 3])
def test_a_chain_in_pieces_is_torn_unless_missing_residues_span_the_gap(between):
    """Two helices under one identifier, with so many numbers left out between them."""
    x = torch.cat([chain(-57, -47), chain(-57, -47)], dim=1)
    ends = x[0, LENGTH - 1, CA]
    number = torch.arange(2 * LENGTH)
    number[LENGTH:] += between
    reach = 4.2 * (between + 1)
    for distance, torn in ((reach - 0.1, False), (reach + 0.1, True)):
        moved = x.clone()
        moved[0, LENGTH:] += ends + torch.tensor([0.0, 0.0, distance]) - x[0, LENGTH, CA]
        bonds = torch.cat([bonded(), bonded()])
        one = torch.zeros(2 * LENGTH, dtype=torch.int64)
        letters = encode_sequence("A" * 2 * LENGTH)
        found = validity(moved, torch.ones_like(bonds), bonds, letters, chain=one, number=number)
        assert found.torn.nonzero().tolist() == ([[0, LENGTH - 1]] if torn else [])
        assert bool(found.valid) is not torn
        assert found.summary()["torn"] == float(torn)
        two = torch.cat([one[:LENGTH], one[LENGTH:] + 1])
        apart = validity(moved, torch.ones_like(bonds), bonds, letters, chain=two, number=number)
        assert not bool(apart.torn.any())


def test_bad_shapes_are_named():
    x = chain(-57, -47)
    with pytest.raises(ValueError, match=r"coordinates must be \(M, L, 3, 3\)"):
        validity(x[0], bonded(), bonded(), encode_sequence("A" * LENGTH))
    with pytest.raises(ValueError, match="aatype"):
        validity(x, bonded(), bonded(), encode_sequence("AA"))
    with pytest.raises(ValueError, match="cb must be"):
        report(x, cb=torch.zeros(LENGTH, 3, dtype=DOUBLE))


def test_real_models_are_valid():
    """Ubiquitin 1D3Z, with Cβ as deposited."""
    root = Path(os.environ.get("EDGEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))
    file = root / "ensembles" / "nmr" / "1d3z.pdb.gz"
    if not file.exists():
        pytest.skip("no ensembles/nmr/1d3z.pdb.gz; set EDGEWISE_DATA")
    with gzip.open(file, "rt") as handle:
        models = list(PDBParser(QUIET=True).get_structure("1d3z", handle))[:5]
    rows = [
        [[r[a if a in r else "CA"].coord for a in ("N", "CA", "C", "CB")] for r in model["A"]]
        for model in models
    ]
    x = torch.from_numpy(np.array(rows))  # (5, 76, 4, 3)
    sequence = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    found = validity(x[:, :, :3], mask, bonded(76), encode_sequence(sequence), x[:, :, 3])
    summary = found.summary()
    for key in ("inside", "right_handed_helix", "left_chirality", "valid"):
        assert summary[key] == 1.0, key
    assert summary["clash"] == 0.0
    assert summary["broken"] == 0.0
    assert summary["outlier"] < 0.005
    assert 0.9 < summary["favoured"] <= 1.0
