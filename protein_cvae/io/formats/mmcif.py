"""mmCIF: text to atoms of each model, by gemmi's reader of CIF, and ensembles to lines.

gemmi divides the text into values; what the columns of the atom table mean is decided here, row by
row: author chains and residue numbers, label ones of the polymer where the author's are unset.
Refused are a table that is cut short, more than one, and a model whose rows stand in two places.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import gemmi
import numpy as np
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.atoms import AtomTable, box_vectors
from protein_cvae.io.formats import rows
from protein_cvae.io.formats.cif_columns import AtomColumns, atom_block
from protein_cvae.residues import one_letter, side_chain_names

SUFFIXES = (".cif", ".mmcif")
_COLUMNS = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id",
    "label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y",
    "Cartn_z", "occupancy", "B_iso_or_equiv", "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num",
)  # fmt: skip
_BACKBONE = [name.encode() for name in BACKBONE]
_SIDE_CHAINS = [name.encode() for name in sorted(side_chain_names())]


def parse(data: bytes, path: Path, side_chains: bool = False) -> Iterator[AtomTable]:
    """The models of an mmCIF file.

    Args:
        data: the whole file.
        path: its name, for messages.
        side_chains: their heavy atoms have coordinates, too, not only N, CA and C.

    Raises:
        ValueError: names the file, and model and residue where there are any, if there is no atom
            table, it is cut short, or it holds what cannot be read.
    """
    block = atom_block(data, path)
    table = AtomColumns(block, path)
    atom = table.codes(("label_atom_id", "auth_atom_id"))
    residue = table.codes(("label_comp_id", "auth_comp_id"))
    chain = table.codes(("auth_asym_id", "label_asym_id"))
    label = table.codes(("label_asym_id", "auth_asym_id"))
    altloc = table.codes(("label_alt_id",), default=".")
    icode = table.codes(("pdbx_PDB_ins_code",), default=".")
    group = table.codes(("group_PDB",), default="ATOM")

    def describe(what: str, row: int, text: str) -> str:
        one = np.array([row])
        name, of, at = (column.take(one)[0].decode() for column in (residue, chain, atom))
        where = "" if what == "model number" else f"model {models.filled(1)[row]}, "
        return f"{path}: {where}residue {of or '-'} {name}, atom {at}: {what} is {text!r}"

    models = table.integers(("pdbx_PDB_model_num",), partial(describe, "model number"))
    spans = _spans(models.filled(1), path)
    # Of waters and ligands, whose residues do not come into question, any number will do.
    matters = np.array([one_letter(text) is not None for text in residue.texts])[residue.values]
    resnum = table.integers(
        ("auth_seq_id", "label_seq_id"), partial(describe, "residue number"), matters
    )
    box = _box(block)
    wanted = _BACKBONE + (_SIDE_CHAINS if side_chains else [])
    for number, start, stop in spans:
        # Every residue of a chain has a number; these without are waters and ligands.
        kept = start + np.flatnonzero(~np.ma.getmaskarray(resnum)[start:stop])
        if not kept.size:
            continue
        name = atom.take(kept)
        found = np.isin(name, wanted)
        xyz, occupancy = np.full((kept.size, 3), np.nan), np.ones(kept.size)
        where = kept[found]
        for axis, column in enumerate(("Cartn_x", "Cartn_y", "Cartn_z")):
            xyz[found, axis] = table.floats(
                column, where, partial(describe, "a coordinate"), np.nan
            )
        occupancy[found] = table.floats("occupancy", where, partial(describe, "occupancy"), 1.0)
        yield AtomTable(
            number=number,
            name=name,
            residue=residue.take(kept),
            chain=chain.take(kept),
            piece=label.values[kept],
            segment=np.zeros(kept.size, dtype="S1"),
            resnum=np.asarray(resnum[kept]),
            icode=icode.take(kept),
            altloc=altloc.take(kept),
            occupancy=occupancy.astype(np.float32),
            hetero=group.take(kept) == b"HETATM",
            xyz=xyz,
            serial=kept - start,
            total=stop - start,
            box=box,
        )


def _spans(models: np.ndarray, path: Path) -> list[tuple[int, int, int]]:
    """Model number, first row and the one behind the last of each model."""
    edges = [0, *(np.flatnonzero(np.diff(models)) + 1).tolist(), len(models)]
    spans = [(int(models[a]), a, b) for a, b in pairwise(edges)]
    numbers = [number for number, _, _ in spans]
    for i, number in enumerate(numbers):
        if number in numbers[:i]:
            raise UserError(
                f"{path}: rows of model {number} stand in two places of the atom table; sort it by "
                "model, or the file is cut short"
            )
    return spans


def _box(block: gemmi.cif.Block) -> np.ndarray | None:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    values = [gemmi.cif.as_number(block.find_value(f"_cell.{name}") or "?") for name in names]
    return (
        box_vectors(np.array(values[:3]), np.array(values[3:]))
        if np.isfinite(values).all()
        else None
    )


def lines(ensemble: Ensemble, b_factor: Tensor, further: rows.FurtherAtoms) -> Iterator[str]:
    """Lines of all models: an ensemble, B-factors (M, L) and what stands behind N, CA and C."""
    residues = rows.residue_fields(ensemble)
    chains = ensemble.chain_index
    label = [int((chains[:i] == chains[i]).sum()) + 1 for i in range(ensemble.length)]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in ensemble.name)
    yield f"data_{safe or 'ensemble'}"
    yield "#"
    yield f"_entry.id {_quoted(safe or 'ensemble')}"
    yield "#"
    yield "loop_"
    yield from (f"_atom_site.{column}" for column in _COLUMNS)
    serial = 0
    for m, number in enumerate(rows.numbers(ensemble)):
        for i, atom, (x, y, z), value in rows.atoms(ensemble, b_factor, further, m):
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
