"""Ensembles to PDB and mmCIF files of many models, as Biopython and MDTraj read them back.

One MODEL for each model with N, CA, C and, where given, O of each residue.  PDB has columns of
fixed width and 0.001 Å; what does not fit is refused, never cut: mmCIF has no such limits and is
written with 0.00001 Å.  A residue that is masked in a model is left out of that model; MDTraj
reads only files whose models have the same atoms, so select complete residues first for it.  In
mmCIF it cannot tell residues apart that differ in the insertion code alone: write PDB for it.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.files.atomic import atomic_path
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.read import structure_format
from protein_cvae.residues import three_letter

_CIF_COLUMNS = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id",
    "label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y",
    "Cartn_z", "occupancy", "B_iso_or_equiv", "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num",
)  # fmt: skip


def write_ensemble(
    path: str | Path,
    ensemble: Ensemble,
    *,
    b_factor: Tensor | None = None,
    oxygen: Tensor | None = None,
) -> Path:
    """Write all models; the file is complete or absent.

    Args:
        path: .pdb, .ent, .cif or .mmcif, with .gz to compress; the suffix decides the format.
        ensemble: what to write, with its chains, residue numbers, insertion codes and model
            numbers (1, 2, ... if a number repeats).
        b_factor: (L,), or (M, L) for one per model: the B-factor column of a residue's atoms,
            e.g. the spread in Å; 0 if None.
        oxygen: (M, L, 3) Å, carbonyl oxygens; N, CA and C alone are written if None.

    Returns:
        ``path``.

    Raises:
        ValueError: if the shapes do not agree, something is not finite, a model has no complete
            residue, or a value does not fit the columns of PDB; names file, model and residue.
    """
    path = Path(path)
    mmcif = structure_format(path) == "mmcif"
    b_factor = _checked_b_factor(b_factor, ensemble, path)
    _check_oxygen(oxygen, ensemble, path)
    for m in (~ensemble.mask.any(1)).nonzero()[:, 0].tolist():
        raise UserError(
            f"{path}: model {ensemble.model_numbers[m]}: no residue from {ensemble.label(0)} on is "
            "complete, there is nothing to write; leave the model out"
        )
    if not mmcif:
        check_pdb_columns(ensemble, b_factor, oxygen, path)
    lines = (_cif_lines if mmcif else _pdb_lines)(ensemble, b_factor, oxygen)
    data = ("\n".join(lines) + "\n").encode("ascii")
    if path.suffix.lower() == ".gz":
        data = gzip.compress(data, mtime=0)  # the same ensemble gives the same bytes
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _checked_b_factor(b_factor: Tensor | None, ensemble: Ensemble, path: Path) -> Tensor:
    shape = ensemble.num_models, ensemble.length
    if b_factor is None:
        return torch.zeros(shape)
    if tuple(b_factor.shape) not in (shape, shape[1:]):
        raise UserError(
            f"{path}: b_factor must be {shape[1:]} or {shape}, got {tuple(b_factor.shape)}"
        )
    values = b_factor.detach().to("cpu", torch.float64).expand(shape)
    for m, i in (~torch.isfinite(values) & ensemble.mask).nonzero().tolist():
        raise UserError(f"{path}: b_factor is {values[m, i]} at {_where(ensemble, m, i)}")
    return values


def _check_oxygen(oxygen: Tensor | None, ensemble: Ensemble, path: Path) -> None:
    if oxygen is None:
        return
    shape = ensemble.num_models, ensemble.length, 3
    if tuple(oxygen.shape) != shape:
        raise UserError(f"{path}: oxygen must be {shape}, got {tuple(oxygen.shape)}")
    for m, i in (~torch.isfinite(oxygen).all(-1) & ensemble.mask.to(oxygen.device)).nonzero():
        raise UserError(f"{path}: oxygen is not finite at {_where(ensemble, int(m), int(i))}")


def _where(ensemble: Ensemble, model: int, residue: int) -> str:
    return f"model {ensemble.model_numbers[model]}, residue {ensemble.label(residue)}"


def _numbers(ensemble: Ensemble) -> tuple[int, ...]:
    numbers = ensemble.model_numbers
    return numbers if len(set(numbers)) == len(numbers) else tuple(range(1, len(numbers) + 1))


def check_pdb_columns(
    ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None, path: Path
) -> None:
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
    for number in _numbers(ensemble):
        if not 0 <= number <= 9999:
            raise UserError(f"{path}: model number {number}: {advice}")
    if ensemble.length * 4 + len(ensemble.chain_ids) > 99_999:
        raise UserError(f"{path}: {ensemble.length} residues have too many atoms: {advice}")
    everything = ensemble.coordinates.detach().cpu()
    if oxygen is not None:
        everything = torch.cat([everything, oxygen.detach().cpu()[:, :, None]], dim=2)
    outside = ((everything < -999.999) | (everything > 9999.999)).any(-1).any(-1)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        raise UserError(f"{path}: {_where(ensemble, m, i)}: a coordinate: {advice}")
    outside = (b_factor < -99.99) | (b_factor > 999.99)
    for m, i in (outside & ensemble.mask).nonzero().tolist():
        value = float(b_factor[m, i])
        raise UserError(f"{path}: {_where(ensemble, m, i)}: b_factor {value:.2f}: {advice}")


def _atoms(
    ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None, model: int
) -> Iterator[tuple[int, str, list[float], float]]:
    """Residue index, atom name, xyz in Å and B-factor of each atom of one model, in order."""
    xyz = ensemble.coordinates[model].detach().cpu().tolist()
    last = None if oxygen is None else oxygen[model].detach().cpu().tolist()
    values = b_factor[model].tolist()
    for i in ensemble.mask[model].nonzero()[:, 0].tolist():
        for a, name in enumerate(BACKBONE):
            yield i, name, xyz[i][a], values[i]
        if last is not None:
            yield i, "O", last[i], values[i]


def _pdb_lines(ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None) -> Iterator[str]:
    residues = _residue_fields(ensemble)
    chains = ensemble.chain_index.tolist()
    for m, number in enumerate(_numbers(ensemble)):
        yield f"MODEL     {number:4d}"
        serial, previous = 0, None
        for i, atom, (x, y, z), value in _atoms(ensemble, b_factor, oxygen, m):
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


def _residue_fields(ensemble: Ensemble) -> list[tuple[str, str, int, str]]:
    """Residue name, chain ID, number and insertion code of each residue."""
    return [
        (three_letter(letter), ensemble.chain_ids[chain], number, code)
        for letter, chain, number, code in zip(
            ensemble.sequence,
            ensemble.chain_index.tolist(),
            ensemble.residue_numbers.tolist(),
            ensemble.insertion_codes,
            strict=True,
        )
    ]


def _cif_lines(ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None) -> Iterator[str]:
    residues = _residue_fields(ensemble)
    chains = ensemble.chain_index
    label = [int((chains[:i] == chains[i]).sum()) + 1 for i in range(ensemble.length)]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in ensemble.name)
    yield f"data_{safe or 'ensemble'}"
    yield "#"
    yield f"_entry.id {_quoted(safe or 'ensemble')}"
    yield "#"
    yield "loop_"
    yield from (f"_atom_site.{column}" for column in _CIF_COLUMNS)
    serial = 0
    for m, number in enumerate(_numbers(ensemble)):
        for i, atom, (x, y, z), value in _atoms(ensemble, b_factor, oxygen, m):
            serial += 1
            name, chain, residue_number, code = residues[i]
            asym = _quoted(chain)
            yield (
                f"ATOM {serial} {atom[0]} {atom} . {name} {asym} {int(chains[i]) + 1} {label[i]} "
                f"{code or '?'} {x:.5f} {y:.5f} {z:.5f} 1.00 {value:.4f} {residue_number} {asym} "
                f"{number}"
            )
    yield "#"


def _quoted(word: str) -> str:
    """A value as mmCIF writes it: in quotes where the bare word would mean something else."""
    special = word.lower().startswith(
        ("data_", "loop_", "save_", "_", "#", "$", "'", '"', "[", ";")
    )
    return f'"{word}"' if special or word in (".", "?") else word
