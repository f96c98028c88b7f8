"""Side chains packed on a backbone by FASPR.

Huang, Pearce and Zhang (2020), Bioinformatics 36, 3758-3765.

FASPR searches the rotamers of a backbone-dependent library for the lowest energy; it comes with
``pyfaspr``, which is optional.  Residues may be held fixed: they are packed against.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.geometry.frames import carbonyl_oxygen, residue_frames, to_local
from protein_cvae.geometry.side_chains import carried, placed
from protein_cvae.residues import (
    ONE_TO_THREE,
    SIDE_CHAIN_SLOTS,
    SIDE_CHAINS,
    UNKNOWN_LETTER,
    side_chain_slot,
)
from protein_cvae.side_chains import SideChains, side_chain_mask

EXTRA = "sidechains"
_STAND_IN = "A"  # of X: no atoms beyond CB


def packer_installed() -> bool:
    """Whether ``pyfaspr`` can be imported."""
    return importlib.util.find_spec("pyfaspr") is not None


def pack(
    ensemble: Ensemble, fixed: SideChains | None = None, free: Tensor | None = None
) -> SideChains:
    """Side chains of all models, CB as :func:`~protein_cvae.geometry.side_chains.ideal_cb` has it.

    Args:
        ensemble: every residue present in every model.
        fixed: side chains of residues that are not to be packed; None to pack all.
        free: (M, L) bool, residues that are packed; the others are complete in ``fixed``.

    Raises:
        ValueError: if ``pyfaspr`` is not installed, or FASPR gives no complete residue.
    """
    if not packer_installed():
        raise UserError(
            f"side chains are packed by pyfaspr, which is not installed: pip install "
            f"'edgewise[{EXTRA}]'"
        )
    from pyfaspr import run_FASPR

    x = ensemble.coordinates
    oxygen = carbonyl_oxygen(x, ensemble.bonded.expand(ensemble.mask.shape), ensemble.mask)
    everywhere = torch.ones_like(ensemble.mask)
    free = everywhere if fixed is None or free is None else free
    side = None if fixed is None else placed(fixed.local, x, everywhere)
    wanted = side_chain_mask(ensemble.sequence)
    found = x.new_zeros(*x.shape[:2], SIDE_CHAIN_SLOTS, 3)
    letters = ensemble.sequence.replace(UNKNOWN_LETTER, _STAND_IN)
    for m in range(ensemble.num_models):
        held = None if side is None else side[m]
        lines = _lines(letters, torch.cat([x[m], oxygen[m][:, None]], dim=1), held, free[m])
        pairs = zip(letters, free[m].tolist(), strict=True)
        cases = "".join(letter if packed else letter.lower() for letter, packed in pairs)
        try:
            text = run_FASPR(pdb="\n".join(lines), sequence=cases)
        except Exception as error:  # it says what went wrong in no way of its own
            raise UserError(
                f"{ensemble.source}: FASPR failed on conformer {ensemble.model_numbers[m]} "
                f"({type(error).__name__}: {error}); choose atoms: backbone"
            ) from None
        there = torch.zeros_like(wanted)
        for i, name, xyz in _atoms(text):
            slot = side_chain_slot(letters[i], name)
            if slot is not None:
                found[m, i, slot] = x.new_tensor(xyz)
                there[i, slot] = True
        for i in (wanted & ~there).any(1).nonzero()[:1, 0].tolist():
            raise UserError(
                f"{ensemble.source}: FASPR placed only a part of residue {ensemble.label(i)} of "
                f"conformer {ensemble.model_numbers[m]}; choose atoms: backbone"
            )
    local = to_local(found, *residue_frames(x))
    local = carried(local, x, x, ensemble.aatype)
    if fixed is not None:
        local = torch.where(free[..., None, None], local, fixed.local)
    mask = wanted.expand(local.shape[:3])
    return SideChains(torch.where(mask[..., None], local, torch.zeros_like(local)), mask)


def _lines(letters: str, backbone: Tensor, side: Tensor | None, free: Tensor) -> Iterator[str]:
    """PDB lines of one chain, residues numbered from 1; side chains of residues that are held."""
    serial = 0
    rows = zip(letters, backbone.tolist(), free.tolist(), strict=True)
    for i, (letter, atoms, packed) in enumerate(rows):
        names = [*BACKBONE, "O"]
        if side is not None and not packed:
            names += SIDE_CHAINS[letter]
            atoms = atoms + side[i, : len(SIDE_CHAINS[letter])].tolist()
        for name, (x, y, z) in zip(names, atoms, strict=True):
            serial += 1
            yield (
                f"ATOM  {serial:5d}  {name:<3s} {ONE_TO_THREE[letter]} A{i + 1:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {name[0]}"
            )


def _atoms(text: str) -> Iterator[tuple[int, str, list[float]]]:
    """Residue from 0, name and xyz of each atom of PDB lines."""
    for line in text.splitlines():
        if line.startswith("ATOM"):
            xyz = [float(line[first : first + 8]) for first in (30, 38, 46)]
            yield int(line[22:26]) - 1, line[12:16].strip(), xyz
