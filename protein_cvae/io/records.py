"""What a coordinate file says, residue by residue, before anything is decided about it.

Both formats end in the same records: for each model, in file order, each residue with its name,
whether it stands in HETATM records, and its N, CA and C atoms for each alternate location.  Other
atoms are not kept, but a residue is, even if it has none of the three.  What no later step could
make sense of is refused here, with file, model and residue: an atom given twice, two names under
one number, coordinates that are not numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from Bio.PDB.StructureBuilder import StructureBuilder

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.residues import IONS, WATERS


class ResidueKey(NamedTuple):
    """What identifies a residue in all models of a file."""

    chain: str
    number: int
    insertion: str  # "" if none
    group: str = ""  # name of a water or ion, which may share its number with a residue


class AtomRecord(NamedTuple):
    """Position in Å and occupancy of one atom."""

    xyz: tuple[float, float, float]
    occupancy: float


@dataclass
class Variant:
    """The atoms of a residue that share an alternate location identifier ("" for none)."""

    name: str
    atoms: dict[str, AtomRecord] = field(default_factory=dict)


@dataclass
class ResidueRecord:
    """One residue of one model."""

    hetero: bool
    variants: dict[str, Variant] = field(default_factory=dict)


@dataclass
class ModelRecords:
    """One model: its number in the file and its residues in file order."""

    number: int
    residues: dict[ResidueKey, ResidueRecord] = field(default_factory=dict)


def residue_label(key: ResidueKey, name: str) -> str:
    """Chain, residue name and number, e.g. "A MSE 12B"; "-" for a blank chain."""
    return f"{key.chain or '-'} {name or '?'} {key.number}{key.insertion}"


class RecordBuilder(StructureBuilder):
    """Collects :class:`ModelRecords`; also the structure builder that Biopython's parser drives.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.models: list[ModelRecords] = []
        self._chain = ""
        self._key: ResidueKey | None = None
        self._name = ""
        self._hetero = False

    def where(self) -> str:
        """File, model and residue of the atom that was read last."""
        model = f"model {self.models[-1].number}" if self.models else "before the first model"
        residue = "" if self._key is None else f", residue {residue_label(self._key, self._name)}"
        return f"{self.path}: {model}{residue}"

    def init_structure(self, structure_id: str) -> None:
        """Called by the parser; nothing to do."""

    def init_model(self, model_id: int, serial_num: int | None = None) -> None:
        """A model begins; without a number of its own it is 1."""
        self.models.append(ModelRecords(model_id + 1 if serial_num is None else serial_num))
        self._key = None

    def init_seg(self, segid: str) -> None:
        """Called by the parser; segments are not used."""

    def init_chain(self, chain_id: str) -> None:
        """Residues from here on belong to this chain."""
        self._chain = chain_id.strip()

    def init_residue(self, resname: str, field: str, resseq: int, icode: str) -> None:
        """A residue begins; ``field`` is " " unless it stands in HETATM records."""
        # Old files, and numbers that wrap at 9999, give a water or an ion the number of a residue.
        name = resname.strip().upper()
        group = name if name in WATERS or name in IONS else ""
        self._key = ResidueKey(self._chain, resseq, icode.strip(), group)
        self._name, self._hetero = resname, field.strip() != ""
        residues = self.models[-1].residues
        if self._key not in residues:
            residues[self._key] = ResidueRecord(self._hetero)

    def init_atom(
        self,
        name: str,
        coord: Sequence[float] | np.ndarray,
        b_factor: float | None = None,
        occupancy: float | None = None,
        altloc: str = " ",
        fullname: str = "",
        serial_number: Any = None,
        element: str | None = None,
        pqr_charge: float | None = None,
        radius: float | None = None,
        is_pqr: bool = False,
    ) -> None:
        """An atom of the current residue; kept if it is N, CA or C.

        Of the parser's arguments only name, coordinates, occupancy (None counts as 1) and
        alternate location are looked at.

        Raises:
            ValueError: if the atom was given before, if the residue has another name in the same
                alternate location, or if the coordinates are not finite.
        """
        assert self._key is not None
        record = self.models[-1].residues[self._key]
        location = altloc.strip()
        variant = record.variants.setdefault(location, Variant(self._name))
        if variant.name != self._name:
            raise UserError(
                f"{self.where()}: two residues have this number, {variant.name} and {self._name}; "
                "give one of them an insertion code or a chain of its own"
            )
        if name not in BACKBONE or self._key.group:
            return
        if name in variant.atoms:
            raise UserError(
                f"{self.where()}: atom {name} is given twice"
                + (f" for alternate location {location}" if location else "")
                + "; a duplicated residue, or two chains or models under one identifier: give each "
                "its own chain ID or MODEL record"
            )
        x, y, z = (float(value) for value in coord)
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            raise UserError(
                f"{self.where()}: atom {name} has coordinates ({x}, {y}, {z}), which are not "
                "finite; leave out atoms that have no position"
            )
        full = 1.0 if occupancy is None else float(occupancy)
        variant.atoms[name] = AtomRecord((x, y, z), full)

    def get_structure(self) -> list[ModelRecords]:
        """The models that hold at least one residue."""
        return [model for model in self.models if model.residues]
