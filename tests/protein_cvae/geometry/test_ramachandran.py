"""Ramachandran classes, the energy against a direct sum, known regions, the Top8000 grids."""

import importlib.resources
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter

from protein_cvae.geometry import ramachandran as rama
from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.io import load_ensemble
from protein_cvae.residues import encode_sequence

DOUBLE = torch.float64
GRIDS = (
    ("rama8000-general-noGPIVpreP.data", 0.0005),
    ("rama8000-gly-sym.data", 0.0010),
    ("rama8000-cispro.data", 0.0020),
    ("rama8000-transpro.data", 0.0010),
    ("rama8000-prepro-noGP.data", 0.0010),
    ("rama8000-ileval-nopreP.data", 0.0010),
)


def degrees(*values: float) -> torch.Tensor:
    return torch.deg2rad(torch.tensor(values, dtype=DOUBLE))


def data(*parts: str) -> Path:
    root = Path(os.environ.get("EDGEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)}; set EDGEWISE_DATA")
    return path


def test_classes_by_sequence():
    #                         A  P  G  P  I  P  V  L  X  (I before P is pre-proline)
    aatype = encode_sequence("APGPIPVLX")
    omega = torch.full((9,), math.pi, dtype=DOUBLE)
    omega[2] = 0.2  # the bond that G makes with the second proline is cis
    expected = [
        rama.PRE_PROLINE,
        rama.TRANS_PROLINE,
        rama.GLYCINE,
        rama.CIS_PROLINE,
        rama.PRE_PROLINE,
        rama.TRANS_PROLINE,
        rama.ILE_VAL,
        rama.GENERAL,
        rama.GENERAL,
    ]
    assert rama.ramachandran_class(aatype, omega).tolist() == expected
    batch = rama.ramachandran_class(aatype.expand(2, 9), omega)
    assert batch.tolist() == [expected, expected]


def test_classes_at_a_break():
    """Omega is filled with 0 where there is no bond; that must not make a proline cis."""
    aatype, omega = encode_sequence("AP"), torch.zeros(2)
    broken = rama.ramachandran_class(aatype, omega, torch.tensor([False, False]))
    joined = rama.ramachandran_class(aatype, omega, torch.tensor([True, False]))
    assert broken.tolist() == [rama.GENERAL, rama.TRANS_PROLINE]
    assert joined.tolist() == [rama.PRE_PROLINE, rama.CIS_PROLINE]


def test_energy_is_the_series_of_the_parameter_file():
    """A plain double sum in NumPy over the stored integers."""
    file = importlib.resources.files("protein_cvae.geometry") / "ramachandran_parameters.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    phi, psi = degrees(-63, 57, -140).numpy(), degrees(-42, 30, 170).numpy()
    for index, name in enumerate(rama.CLASS_NAMES):
        flat = stored["classes"][name]["coefficients"]
        width = math.isqrt(len(flat))
        order = width // 2
        expected = np.zeros(3)
        for j in range(width):
            for k in range(width):
                row = np.cos(j * phi) if j <= order else np.sin((j - order) * phi)
                column = np.cos(k * psi) if k <= order else np.sin((k - order) * psi)
                expected += stored["unit_nats"] * flat[j * width + k] * row * column
        classes = torch.full((3,), index)
        ours = rama.ramachandran_energy(torch.tensor(phi), torch.tensor(psi), classes)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


def test_energy_is_a_normalised_density():
    """exp(−E) integrates to 1 over the torus: E is −log density per rad², not just a score."""
    step = 2 * math.pi / 180
    axis = torch.arange(180, dtype=DOUBLE) * step
    phi, psi = torch.meshgrid(axis, axis, indexing="ij")
    for index in range(6):
        energy = rama.ramachandran_energy(phi, psi, torch.full((), index))
        assert float((-energy).exp().sum() * step**2) == pytest.approx(1.0, abs=0.03)


def test_period_gradient_and_types():
    generator = torch.Generator().manual_seed(0)
    angles = 2 * math.pi * torch.rand((2, 24), generator=generator, dtype=DOUBLE)
    phi, psi = angles.requires_grad_().unbind(0)
    classes = torch.arange(24) % 6
    energy = rama.ramachandran_energy(phi, psi, classes)
    turned = rama.ramachandran_energy(phi + 2 * math.pi, psi - 2 * math.pi, classes)
    assert torch.allclose(energy, turned, atol=1e-9)

    def function(phi: torch.Tensor, psi: torch.Tensor) -> torch.Tensor:
        return rama.ramachandran_energy(phi, psi, classes)

    inputs = tuple(a.detach().clone().requires_grad_() for a in (phi, psi))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(lambda a: function(a, inputs[1]), inputs[:1])
    single = rama.ramachandran_energy(phi.float(), psi.float(), classes)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), energy, atol=1e-3)


def test_no_minimum_among_outliers():
    """On a 2° grid every outlier has a neighbour of lower energy: the gradient leads back."""
    axis = torch.deg2rad(torch.arange(-180, 180, 2, dtype=DOUBLE))
    phi, psi = torch.meshgrid(axis, axis, indexing="ij")
    for index in range(6):
        classes = torch.full(phi.shape, index)
        energy = rama.ramachandran_energy(phi, psi, classes).numpy()
        lowest = energy == minimum_filter(energy, 3, mode="wrap")
        assert lowest.any()
        assert not (lowest & rama.ramachandran_outlier(phi, psi, classes).numpy()).any()


def test_gradient_descent_leaves_forbidden_regions():
    phi, psi = degrees(60.0, 0.0, 120.0), degrees(-90.0, 0.0, -60.0)
    classes = torch.zeros(3, dtype=torch.int64)
    assert rama.ramachandran_outlier(phi, psi, classes).all()
    angles = torch.stack((phi, psi)).requires_grad_()
    for _ in range(400):
        energy = rama.ramachandran_energy(angles[0], angles[1], classes).sum()
        (gradient,) = torch.autograd.grad(energy, angles)
        angles = (angles - 0.01 * gradient).detach().requires_grad_()
    assert not rama.ramachandran_outlier(angles[0], angles[1], classes).any()


def test_first_use_in_inference_mode_leaves_gradients_possible():
    rama._parameters.cache_clear()
    phi, classes = degrees(-60.0), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        rama.ramachandran_energy(phi, phi, classes)
    leaf = phi.clone().requires_grad_()
    rama.ramachandran_energy(leaf, leaf, classes).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("phi", "psi", "favoured"),
    [
        (-63, -43, ("general", "glycine", "trans-proline", "pre-proline", "ile-val")),
        (-120, 130, ("general", "ile-val", "pre-proline")),
        (57, 45, ("general", "glycine")),  # left-handed helix
        (80, -170, ("glycine",)),
        (-75, 150, ("general", "cis-proline", "trans-proline", "pre-proline")),
        (-65, 165, ("general", "glycine", "trans-proline", "cis-proline")),
    ],
)
def test_known_regions(phi, psi, favoured):
    for name in favoured:
        index = torch.tensor([rama.CLASS_NAMES.index(name)])
        assert rama.ramachandran_favoured(degrees(phi), degrees(psi), index).all(), name
        assert not rama.ramachandran_outlier(degrees(phi), degrees(psi), index).any(), name


def test_the_plot_has_no_edge_at_180_degrees():
    """ψ about ±180° is allowed."""
    psi = degrees(176, 180, -176)
    classes = torch.zeros(3, dtype=torch.int64)
    assert not rama.ramachandran_outlier(degrees(-70, -70, -70), psi, classes).any()


def test_left_handed_helix_is_for_some_only():
    phi, psi = degrees(57, 57, 57), degrees(45, 45, 45)
    classes = torch.tensor([rama.GENERAL, rama.TRANS_PROLINE, rama.CIS_PROLINE])
    assert rama.ramachandran_outlier(phi, psi, classes).tolist() == [False, True, True]


def test_bad_input_is_named():
    angle = degrees(0.0)
    with pytest.raises(ValueError, match=r"residue_class must hold 0\.\.5"):
        rama.ramachandran_energy(angle, angle, torch.tensor([6]))
    with pytest.raises(ValueError, match="floating point"):
        rama.ramachandran_energy(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="broadcast"):
        rama.ramachandran_energy(torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="aatype"):
        rama.ramachandran_class(torch.zeros(3), torch.zeros(3))


def grid_value(grid: np.ndarray, phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Contour value by periodic bilinear interpolation between the 2° cell centres."""
    x, y = (np.rad2deg(phi) + 179) / 2, (np.rad2deg(psi) + 179) / 2
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - i, y - j

    def at(a: int, b: int) -> np.ndarray:
        return grid[(i + a) % 180, (j + b) % 180]

    low = (1 - v) * at(0, 0) + v * at(0, 1)
    return (1 - u) * low + u * ((1 - v) * at(1, 0) + v * at(1, 1))


def read_grids() -> list[tuple[np.ndarray, float]]:
    grids = []
    for file, share in GRIDS:
        table = np.loadtxt(data("rama8000", file))
        index = np.rint((table[:, :2] + 179) / 2).astype(int)
        grid = np.zeros((180, 180))
        grid[index[:, 0], index[:, 1]] = table[:, 2]
        grids.append((grid, share))
    return grids


def test_regions_are_those_of_the_grids():
    axis = torch.deg2rad(torch.arange(-179, 180, 2, dtype=DOUBLE))
    phi, psi = torch.meshgrid(axis, axis, indexing="ij")
    for index, (grid, share) in enumerate(read_grids()):
        classes = torch.full((180, 180), index)
        outlier = rama.ramachandran_outlier(phi, psi, classes).numpy()
        favoured = rama.ramachandran_favoured(phi, psi, classes).numpy()
        assert (outlier != (grid < share)).mean() < 0.004
        assert (favoured != (grid >= 0.02)).mean() < 0.003


def test_outliers_of_real_ensembles_are_those_of_the_grids():
    """All residues of five ensembles; they hold outliers, so both kinds of error are counted."""
    grids = read_grids()
    ours, theirs = [], []
    for name in ("2sdf.pdb.gz", "1bus.pdb.gz", "1ah1.cif.gz", "2lci.cif.gz", "5zkv.cif.gz"):
        ensemble = load_ensemble(data("ensembles", "nmr", name))
        shape = ensemble.mask.shape
        bonded = ensemble.bonded.expand(shape)
        angles, defined = backbone_dihedrals(ensemble.coordinates.double(), bonded, ensemble.mask)
        classes = rama.ramachandran_class(ensemble.aatype.expand(shape), angles.omega, bonded)
        kept = defined.phi & defined.psi
        phi, psi, classes = angles.phi[kept], angles.psi[kept], classes[kept]
        ours.append(rama.ramachandran_outlier(phi, psi, classes).numpy())
        reference = np.zeros_like(ours[-1])
        for index, (grid, share) in enumerate(grids):
            chosen = classes.numpy() == index
            value = grid_value(grid, phi.numpy()[chosen], psi.numpy()[chosen])
            reference[chosen] = value < share
        theirs.append(reference)
    found, true = np.concatenate(ours), np.concatenate(theirs)
    assert true.sum() > 200
    assert (~found[true]).mean() < 0.03
    assert found[~true].mean() < 0.001
    assert abs(found.mean() - true.mean()) < 0.001
