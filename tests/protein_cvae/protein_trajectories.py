"""Small trajectories: a topology as PDB text, frames with noise, and files of both."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np

ATOMS = ("N", "CA", "C", "O", "CB")
RESIDUE = np.array([[0, 0, 0], [1.458, 0, 0], [2.008, 1.42, 0], [1.3, 2.4, 0], [1.9, -0.8, 1.2]])
STEP = np.array([3.3, 1.62, 0.0])


def topology_and_frames(
    names: list[str],
    frames: int,
    *,
    slots: list[float] | None = None,
    chains: list[str] | None = None,
    numbers: list[int] | None = None,
    seed: int = 0,
) -> tuple[str, np.ndarray]:
    """PDB text and (F, A, 3) Å: ACE, residues, NME and a water; noise of 0.02 Å."""
    lines, xyz = [], []

    def add(atom: str, name: str, chain: str, number: int, at: np.ndarray) -> None:
        x, y, z = at
        lines.append(
            f"ATOM  {len(lines) + 1:5d}  {atom:<3s} {name:>3s} {chain}{number:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {atom[0]:>2s}"
        )
        xyz.append(at)

    add("C", "ACE", (chains or ["A"])[0], 0, -STEP + RESIDUE[2])
    for i, name in enumerate(names):
        slot = i if slots is None else slots[i]
        chain = "A" if chains is None else chains[i]
        if i and chains and chains[i] != chains[i - 1]:
            lines.append("TER")
        for atom, at in zip(ATOMS, RESIDUE, strict=True):
            add(atom, name, chain, i + 1 if numbers is None else numbers[i], at + slot * STEP)
    add("O", "HOH", "W", 900, np.array([0.0, 0.0, 30.0]))
    noise = np.random.default_rng(seed).normal(0, 0.02, (frames, len(xyz), 3))
    return "\n".join([*lines, "END", ""]), np.array(xyz) + noise


def save(
    folder: Path, text: str, *, box: tuple[float, ...] | None = None, **trajectories: np.ndarray
) -> Path:
    """``box``: three edges in Å and three angles in degrees."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "topology.pdb").write_text(text)
    table = mdtraj.load_topology(str(folder / "topology.pdb"))
    for name, xyz in trajectories.items():
        cell = {}
        if box is not None:
            cell["unitcell_lengths"] = np.tile(np.array(box[:3]) / 10, (len(xyz), 1))
            cell["unitcell_angles"] = np.tile(box[3:], (len(xyz), 1))
        trajectory = mdtraj.Trajectory((xyz / 10).astype(np.float32), table, **cell)
        trajectory.save(str(folder / f"{name}.xtc"))
    return folder
