"""PDB: text to atoms of each model, by gemmi, and ensembles to lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gemmi
import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.formats import rows
from protein_cvae.io.formats.pdb_lines import prepared
from protein_cvae.io.formats.pdb_text import model_texts

SUFFIXES = (".pdb", ".ent")
# Behind the segment stand element and charge, or, in old files, numbers of lines: not read.
_SEGMENT_END = 76


def parse(data: bytes, path: Path, side_chains: bool = False) -> Iterator[AtomTable]:
    """The models of a PDB file, one after the other; their numbers as far as the file has them.

    Args:
        data: the whole file.
        path: its name, for messages.
        side_chains: no matter; all atoms are read.

    Raises:
        ValueError: names file, line, model and residue if the text is not a PDB file, is cut
            short, or holds what cannot be read.
    """
    number = 0
    for model in model_texts(data, path):
        number = number + 1 if model.number is None else model.number
        text, names, segments = prepared(model)
        try:
            structure = gemmi.read_pdb_string(text, _SEGMENT_END, split_chain_on_ter=True)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{model.where(0)} or behind it: model {number} cannot be read ({error})"
            ) from None
        yield _table(structure, number, names, segments, model.box)


def _table(
    structure: gemmi.Structure,
    number: int,
    names: dict[bytes, bytes],
    segments: bool,
    box: np.ndarray | None,
) -> AtomTable:
    flat = gemmi.FlatStructure(structure)
    flat.strings_as_numbers = False
    chains = list(structure[0]) if len(structure) else []
    counts = [chain.count_atom_sites() for chain in chains]
    piece = np.repeat(np.arange(len(chains)), counts)
    residue = np.array(flat.residue_names)
    for token, name in names.items():
        residue[residue == token] = name
    segment = np.zeros(len(flat), dtype="S8")
    if segments:
        parts = [part for chain in chains for part in chain]
        words = np.array([part.segment.strip() for part in parts], dtype="S8")
        segment = np.repeat(words, [len(part) for part in parts])
    resnum, icode = _five_digits(np.array(flat.resnums, dtype=np.int64), _letters(flat.icodes))
    return AtomTable(
        number=number,
        name=np.array(flat.atom_names),
        residue=residue,
        chain=np.array([chain.name for chain in chains], dtype="S8")[piece],
        piece=piece,
        segment=segment,
        resnum=resnum,
        icode=icode,
        altloc=_letters(flat.altlocs),
        occupancy=np.array(flat.occ),
        hetero=_letters(flat.het_flags) == b"H",
        xyz=np.array(flat.pos),
        serial=np.array(flat.serials, dtype=np.int64),
        total=len(flat),
        box=box,
    )


def _letters(codes: np.ndarray) -> np.ndarray:
    """Codes of characters as bytes; b"" for 0 and a space."""
    codes = np.array(codes, dtype=np.uint8)
    return np.where(codes == ord(" "), 0, codes).astype(np.uint8).view("S1")


def _five_digits(resnum: np.ndarray, icode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers above 9999 whose last digit stands in the column of the insertion code."""
    long = (resnum >= 1000) & (icode >= b"0") & (icode <= b"9")
    if long.any():
        resnum[long] = 10 * resnum[long] + icode[long].astype(np.int64)
        icode[long] = b""
    return resnum, icode


def check(ensemble: Ensemble, b_factor: Tensor, further: rows.FurtherAtoms, path: Path) -> None:
    """Refuse what PDB's columns cannot hold."""
    advice = "it does not fit the columns of PDB; write .cif"
    for chain in ensemble.chain_ids:
        if len(chain) != 1:
            raise UserError(f"{path}: chain ID {chain!r}: {advice}")
    numbers = ensemble.residue_numbers
    for i in ((numbers < -999) | (numbers > 9999)).nonzero()[:, 0].tolist():
        raise UserError(f"{path}: residue {ensemble.label(i)}: {advice}")
    for i, code in enumerate(ensemble.insertion_codes):
        if len(code) > 1:
            raise UserError(f"{path}: residue {ensemble.label(i)}: insertion code: {advice}")
    for number in rows.numbers(ensemble):
        if not 0 <= number <= 9999:
            raise UserError(f"{path}: model number {number}: {advice}")
    atoms = len(BACKBONE) * ensemble.length + int(further.mask.sum((1, 2)).max())
    if atoms + len(ensemble.chain_ids) > 99_999:
        raise UserError(f"{path}: {ensemble.length} residues have too many atoms: {advice}")
    shown = torch.where(further.mask[..., None], further.xyz, torch.zeros_like(further.xyz))
    everything = torch.cat([ensemble.coordinates.detach().cpu(), shown], dim=2)
    outside = ((everything < -999.999) | (everything > 9999.999)).any(-1).any(-1)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        raise UserError(f"{path}: {rows.where(ensemble, m, i)}: a coordinate: {advice}")
    outside = (b_factor < -99.99) | (b_factor > 999.99)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        value = float(b_factor[m, i])
        raise UserError(f"{path}: {rows.where(ensemble, m, i)}: b_factor {value:.2f}: {advice}")


def lines(ensemble: Ensemble, b_factor: Tensor, further: rows.FurtherAtoms) -> Iterator[str]:
    """Lines of all models: an ensemble, B-factors (M, L) and what stands behind N, CA and C."""
    residues = rows.residue_fields(ensemble)
    chains = ensemble.chain_index.tolist()
    for m, number in enumerate(rows.numbers(ensemble)):
        yield f"MODEL     {number:4d}"
        serial, previous = 0, None
        for i, atom, (x, y, z), value in rows.atoms(ensemble, b_factor, further, m):
            if previous is not None and chains[i] != chains[previous]:
                serial += 1
                yield _ter(serial, *residues[previous])
            serial, previous = serial + 1, i
            name, chain, residue_number, code = residues[i]
            yield (
                f"ATOM  {serial:5d}  {atom:<3s} {name:>3s} {chain}{residue_number:4d}{code or ' '}"
                f"   {x:8.3f}{y:8.3f}{z:8.3f}  1.00{value:6.2f}          {atom[0]:>2s}  "
            )
        assert previous is not None
        yield _ter(serial + 1, *residues[previous])
        yield "ENDMDL"
    yield "END   "  # all six columns: Biopython does not know the bare word


def _ter(serial: int, name: str, chain: str, number: int, code: str) -> str:
    return f"TER   {serial:5d}      {name:>3s} {chain}{number:4d}{code or ' '}"
