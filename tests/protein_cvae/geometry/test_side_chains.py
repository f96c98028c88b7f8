"""Cβ, carried side chains and clashes, against Biopython's peptide and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from heavy_files import SEQUENCE, peptide, positions, save

from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry import constants, relief
from protein_cvae.geometry.clashes import (
    ALLOWANCE,
    RADII,
    clashes_per_1000,
    clashing_pairs,
)
from protein_cvae.geometry.dihedrals import dihedral
from protein_cvae.geometry.frames import ideal_residue, rotation_from_axis_angle
from protein_cvae.geometry.side_chains import (
    carried,
    chi1,
    has_chi1,
    ideal_cb,
    placed,
    terminal_oxygen,
    turned_chi1,
)
from protein_cvae.io import read_structure
from protein_cvae.residues import SIDE_CHAINS, encode_sequence
from protein_cvae.side_chains import side_chain_mask


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    path = save(peptide(), tmp_path_factory.mktemp("heavy") / "x.cif")
    return read_structure(path, side_chains=True)


def angle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    one, two = a - b, c - b
    return ((one * two).sum(-1) / one.norm(dim=-1) / two.norm(dim=-1)).acos()


@pytest.mark.parametrize(
    ("letter", "kind"),
    [("A", constants.ALANINE_CB), ("V", constants.BRANCHED_CB), ("I", constants.BRANCHED_CB),
     ("T", constants.BRANCHED_CB), ("P", constants.PROLINE_CB), ("L", constants.LINEAR_CB),
     ("G", constants.LINEAR_CB), ("X", constants.LINEAR_CB)],
)  # fmt: skip
@pytest.mark.parametrize("degrees", [104.0, 110.8, 118.0])
def test_cb_has_the_angles_of_its_kind(letter, kind, degrees):
    tau = math.radians(degrees)
    backbone = ideal_residue(torch.zeros(1, dtype=torch.float64))
    backbone[0] = backbone.new_tensor([1.458 * math.cos(tau), 1.458 * math.sin(tau), 0.0])
    cb = ideal_cb(backbone[None], encode_sequence(letter))[0]
    n, ca, c = backbone
    assert cb.norm().item() == pytest.approx(kind.length)
    assert angle(n, ca, cb).item() == pytest.approx(kind.from_n, abs=1e-9)
    assert angle(c, ca, cb).item() == pytest.approx(kind.from_c, abs=1e-9)
    assert cb[2] < 0  # L: N, C and Cβ seen from H turn as they do in nature


def test_cb_is_near_the_one_biopython_builds(heavy):
    cb = ideal_cb(heavy.coordinates, heavy.aatype)
    side = heavy.side_chains
    apart = (cb - side.local[:, :, 0]).norm(dim=-1)[side.mask[:, :, 0]]
    assert apart.max() < 0.12


def random_backbone(like: Ensemble, seed: int = 0) -> torch.Tensor:
    """Another backbone of the residues: bonds and angles bent, every residue turned."""
    generator = generator_for(seed)
    x = like.coordinates.double()
    turns = rotation_from_axis_angle(
        torch.randn(*x.shape[:2], 3, generator=generator, dtype=torch.float64)
    )
    noise = 0.05 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return (x - x[:, :, 1:2]) @ turns.mT + x[:, :, 1:2] + noise


def test_carried_side_chains_keep_their_own_geometry_and_chi1(heavy):
    local = heavy.side_chains.local.double()
    source, target = heavy.coordinates.double(), random_backbone(heavy)
    found = carried(local, source, target, heavy.aatype)
    mask = heavy.side_chains.mask
    every = torch.ones_like(heavy.mask)
    before, after = placed(local, source, every), placed(found, target, every)
    both = mask[..., :, None] & mask[..., None, :]
    gap = torch.cdist(before, before) - torch.cdist(after, after)
    assert gap[both].abs().max() < 1e-9
    has = (has_chi1(heavy.aatype) & True).expand(mask.shape[:2])
    x, s = target.unbind(2), after.unbind(2)
    again = dihedral(x[0], x[1], s[0], s[1], has)
    wanted = dihedral(source[:, :, 0], source[:, :, 1], before[:, :, 0], before[:, :, 1], has)
    turn = (again - wanted + math.pi).remainder(2 * math.pi) - math.pi
    assert turn.abs().max() < 1e-6
    assert torch.allclose(chi1(target, found, has), again, atol=1e-9)
    # Angle and length at Cβ are those of its kind, however the backbone is bent.
    n_ca_cb = angle(x[0], x[1], s[0])[:, heavy.sequence.index("L")]
    assert (n_ca_cb - constants.LINEAR_CB.from_n).abs().max() < 1e-6


def test_carrying_onto_the_same_backbone_changes_cb_alone_and_little(heavy):
    local, x = heavy.side_chains.local, heavy.coordinates
    found = carried(local, x, x, heavy.aatype)
    gap = (found - local).norm(dim=-1)[heavy.side_chains.mask]
    assert gap.max() < 0.45  # the lever of a long side chain


def test_a_turned_chi1_is_turned_and_nothing_else(heavy):
    side = heavy.side_chains
    has = has_chi1(heavy.aatype).expand(heavy.mask.shape)
    found = turned_chi1(side.local, math.radians(50.0))
    change = chi1(heavy.coordinates, found, has) - chi1(heavy.coordinates, side.local, has)
    change = change.remainder(2 * math.pi)[has]
    assert (change - math.radians(50.0)).abs().max() < 1e-4
    assert torch.allclose(found[..., 0, :], side.local[..., 0, :], atol=1e-5)


def test_terminal_oxygens_lie_opposite_to_o(heavy):
    x = heavy.coordinates.double()
    oxygen = torch.from_numpy(positions(peptide(), {}.fromkeys(
        {"GLY", "ALA", "CYS", "ASP", "GLU", "PHE", "HIS", "ILE", "LYS", "LEU", "MET", "ASN", "PRO",
         "GLN", "ARG", "SER", "THR", "VAL", "TRP", "TYR"}, ("O",)))[:, :, 0])  # fmt: skip
    oxt = terminal_oxygen(x, oxygen)
    ca, c = x[:, :, 1], x[:, :, 2]
    assert (oxt - c).norm(dim=-1) == pytest.approx(constants.C_OXT)
    assert angle(ca, c, oxt) == pytest.approx(constants.CA_C_OXT)
    torsion = dihedral(x[:, :, 0], ca, c, oxt) - dihedral(x[:, :, 0], ca, c, oxygen)
    assert torsion.cos() == pytest.approx(-1.0)
    assert (oxt - oxygen).norm(dim=-1) == pytest.approx(2.16, abs=0.12)  # of a carboxylate: 2.2


def scattered(seed: int, sequence: str = "KDCCGWMS") -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms of residues thrown into a small box, so that many clash."""
    mask = torch.cat(
        [torch.ones(len(sequence), 4, dtype=torch.bool), side_chain_mask(sequence)], dim=1
    )
    return 9 * torch.rand(*mask.shape, 3, generator=generator_for(seed)), mask


def brute_force(
    x: torch.Tensor, mask: torch.Tensor, sequence: str, chain: list[int], overlap: float
) -> list[tuple[int, int]]:
    atoms = [
        (i, name[0], x[i, a].double())
        for i, letter in enumerate(sequence)
        for a, name in enumerate(("N", "CA", "C", "O", *SIDE_CHAINS[letter]))
        if mask[i, a]
    ]
    found = []
    for (i, one, p), (j, two, q) in itertools.combinations(atoms, 2):
        if i == j or (abs(i - j) == 1 and chain[i] == chain[j]) or one == two == "S":
            continue
        allowance = ALLOWANCE if one in "NO" and two in "NO" else 0.0
        if RADII[one] + RADII[two] - allowance - float((p - q).norm()) >= overlap:
            found.append((i, j))
    return sorted(found)


@pytest.mark.parametrize("overlap", [0.6, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_clashes_are_those_of_all_pairs(seed, overlap):
    sequence, chain = "KDCCGWMS", [0, 0, 0, 0, 1, 1, 1, 1]
    x, mask = scattered(seed, sequence)
    pairs = clashing_pairs(x, mask, sequence, torch.tensor(chain), overlap)
    wanted = brute_force(x, mask, sequence, chain, overlap)
    assert len(wanted) > 5
    assert sorted(tuple(sorted(pair)) for pair in pairs.tolist()) == wanted
    rate = clashes_per_1000(x[None], mask[None], sequence, torch.tensor(chain), overlap)
    assert rate == pytest.approx(1000 * len(wanted) / int(mask.sum()))


def test_two_sulphurs_and_neighbours_do_not_clash():
    x, mask = torch.full((3, 14, 3), 50.0), torch.zeros(3, 14, dtype=torch.bool)
    x += 20.0 * torch.arange(3)[:, None, None]
    mask[0, 5] = mask[2, 5] = True
    x[0, 5] = x[2, 5] = 0.0
    chain = torch.zeros(3, dtype=torch.int64)
    assert len(clashing_pairs(x, mask, "CGC", chain)) == 0
    assert len(clashing_pairs(x, mask, "SGC", chain)) == 1
    assert len(clashing_pairs(x[[0, 2]], mask[[0, 2]], "SC", chain[:2])) == 0
    assert len(clashing_pairs(x[[0, 2]], mask[[0, 2]], "SC", torch.tensor([0, 1]))) == 1


def total(problem: dict, choice: tuple[int, ...]) -> float:
    """Cost and overlaps beyond 0.5 Å that a choice has, pair by pair."""
    sequence = problem["sequence"]
    energy = sum(problem["cost"][c] for c in choice)
    for i, j in itertools.combinations(range(len(sequence)), 2):
        beside = j - i == 1
        parts = []
        for r in (i, j):
            names = ["N", "CA", "C", "O", *SIDE_CHAINS[sequence[r]]]
            xyz = [*problem["backbone"][r], *problem["candidates"][choice[r], r]]
            parts.append(list(zip(names, xyz[: len(names)], range(len(names)), strict=True)))
        for (a, p, s), (b, q, t) in itertools.product(*parts):
            if (s <= 4 and t <= 4) or (beside and (s <= 4 or t <= 4)):
                continue
            if a[0] == b[0] == "S":
                continue
            allowance = ALLOWANCE if a[0] in "NO" and b[0] in "NO" else 0.0
            overlap = RADII[a[0]] + RADII[b[0]] - allowance - float(np.linalg.norm(p - q))
            energy += max(0.0, overlap - 0.5)
    return energy


def test_least_overlap_lowers_the_sum_to_where_no_single_change_lowers_it():
    sequence, rng = "LKSWRF", np.random.default_rng(0)
    length, count = len(sequence), 5
    anchors = 6.0 * rng.random((length, 1, 3))
    problem = {
        "backbone": anchors + rng.random((length, 4, 3)),
        "candidates": anchors + 3.0 * rng.normal(size=(count, length, 10, 3)),
        "allowed": np.ones((count, length), dtype=bool),
        "mask": side_chain_mask(sequence).numpy(),
        "sequence": sequence,
        "chain": np.zeros(length, dtype=int),
        "cost": np.array([0.0, 0.0, 0.0, 0.3, 0.3]),
    }
    problem["candidates"][:, :, 0] = anchors[:, 0] + 1.0  # CB does not move
    problem["allowed"][3, 2] = False
    choice = relief.least_overlap(**problem)
    assert choice[2] != 3
    start, end = total(problem, (0,) * length), total(problem, tuple(choice))
    assert end < start
    for i in range(length):
        for c in np.flatnonzero(problem["allowed"][:, i]):
            other = (*choice[:i], c, *choice[i + 1 :])
            assert total(problem, other) >= end - 1e-9


def test_side_chains_that_overlap_nothing_stay(heavy):
    candidates = np.stack([np.full((22, 10, 3), 1e3 * k) for k in range(1, 4)])
    candidates += 100.0 * np.arange(22)[:, None, None]
    choice = relief.least_overlap(
        np.arange(22)[:, None, None] * np.full((1, 4, 3), -100.0),
        candidates,
        np.ones((3, 22), dtype=bool),
        side_chain_mask(SEQUENCE).numpy(),
        SEQUENCE,
        np.zeros(22, dtype=int),
        np.zeros(3),
    )
    assert choice.tolist() == [0] * 22
