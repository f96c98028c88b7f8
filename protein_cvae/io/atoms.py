"""The atoms of one model as columns, whatever file they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AtomTable:
    """A atoms of one model, residue by residue; text columns are bytes without spaces around.

    Attributes:
        number: of the model, as the file numbers it.
        name: (A,) atom names.
        residue: (A,) residue names.
        chain: (A,) chain identifiers, b"" for none.
        piece: (A,) int64, another number wherever the file ends a chain (TER, another label).
        segment: (A,) segment identifiers, b"" for none.
        resnum: (A,) int64 residue numbers.
        icode: (A,) insertion codes, b"" for none.
        altloc: (A,) alternate locations, b"" for none.
        occupancy: (A,) float32.
        hetero: (A,) bool, the atom stands in a HETATM record.
        xyz: (A, 3) float64 Å; NaN where the file has no coordinates.
        serial: (A,) int64, number of the atom in the file; in a topology its place, from 0.
        total: atoms of the model in the file, with those that have no residue number.
        box: (3, 3) Å, vectors of the periodic box in rows; None where the file has none.
        bonded: atoms C that are bonded to an N, by index; None where the file lists no bonds.
        coded: the file has insertion codes; without them residues may share a number.
    """

    number: int
    name: np.ndarray
    residue: np.ndarray
    chain: np.ndarray
    piece: np.ndarray
    segment: np.ndarray
    resnum: np.ndarray
    icode: np.ndarray
    altloc: np.ndarray
    occupancy: np.ndarray
    hetero: np.ndarray
    xyz: np.ndarray
    serial: np.ndarray
    total: int
    box: np.ndarray | None = None
    bonded: frozenset[int] | None = None
    coded: bool = True

    def __len__(self) -> int:
        return len(self.name)


def usable_box(box: np.ndarray | None) -> bool:
    """Whether box vectors (3, 3) Å are those of a real box: finite, and 5 Å high at least.

    Programs write 1 × 1 × 1 Å, or zeros, where there is none.
    """
    if box is None or not np.isfinite(box).all():
        return False
    volume = abs(float(np.linalg.det(box)))
    faces = np.cross(box[[1, 2, 0]], box[[2, 0, 1]])
    heights = volume / np.maximum(np.linalg.norm(faces, axis=1), 1e-12)
    return bool((heights >= 5.0).all())


def box_vectors(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(..., 3, 3) vectors in rows, a along x and b in the xy plane, of edges (..., 3) and angles
    (..., 3) in degrees between b and c, a and c, a and b; NaN where the angles span no box."""
    a, b, c = np.moveaxis(np.asarray(lengths, dtype=np.float64), -1, 0)
    alpha, beta, gamma = np.moveaxis(np.cos(np.radians(np.asarray(angles, np.float64))), -1, 0)
    sine = np.sqrt(np.maximum(1 - gamma**2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        y = (alpha - beta * gamma) / sine
        z = np.sqrt(1 - beta**2 - y**2)
    zero = np.zeros_like(a)
    rows = [[a, zero, zero], [b * gamma, b * sine, zero], [c * beta, c * y, c * z]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))
