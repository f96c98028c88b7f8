"""One protein in several conformations: the object that every reader makes and every user takes.

Coordinates are in Å.  What is missing is zero with mask False, never NaN.  An ensemble is
immutable; selecting models, chains or residues gives another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.frames_file import take_residues
from protein_cvae.residues import encode_sequence, three_letter
from protein_cvae.side_chains import SideChains

BACKBONE = ("N", "CA", "C")
LEFT_OUT = "left out"
"""Kind of the notes on residues that have no place among those of the first models."""

_SHOWN = 4  # of a kind of note, in one line
_PART = 1000  # models looked at together; the whole may be on the disk


@dataclass(frozen=True)
class Note:
    """One thing a reader found in a file and dealt with.

    Attributes:
        kind: what, in a few fixed words, e.g. "missing backbone atoms", "alternate locations".
        model: model number in the file, or None where it holds for all models.
        residue: the residue as :meth:`Ensemble.label` writes it, e.g. "A MSE 12", or "" .
        detail: what was found and what was done.
    """

    kind: str
    model: int | None
    residue: str
    detail: str

    def __str__(self) -> str:
        model = "" if self.model is None else f"model {self.model}"
        where = ", ".join(part for part in (model, self.residue) if part)
        return ": ".join(part for part in (self.kind, where, self.detail) if part)


@dataclass(frozen=True)
class ReadReport:
    """All notes of one reading, in the order in which they were made."""

    notes: tuple[Note, ...] = ()

    def of_kind(self, kind: str) -> tuple[Note, ...]:
        """The notes of one kind."""
        return tuple(note for note in self.notes if note.kind == kind)

    def counts(self) -> dict[str, int]:
        """Number of notes of each kind."""
        counts: dict[str, int] = {}
        for note in self.notes:
            counts[note.kind] = counts.get(note.kind, 0) + 1
        return counts

    def line(self) -> str:
        """One line: each kind with the first of what it concerns; "nothing to note" if empty."""
        found = []
        for kind in self.counts():
            if kind == "conformer":  # which file is which stands in the full report
                continue
            notes = self.of_kind(kind)
            what = list(dict.fromkeys(note.residue or note.detail for note in notes))
            models = {note.model for note in notes if note.model is not None}
            some = f" (in {len(models)} models)" if models else ""
            found.append(f"{kind} {listed(what, _SHOWN)}{some}")
        return "; ".join(found) or "nothing to note"

    def to_list(self) -> list[dict[str, Any]]:
        """The notes as plain dictionaries, for JSON."""
        return [asdict(note) for note in self.notes]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """M models of L residues.

    Attributes:
        name: file stem, e.g. "2sdf".
        coordinates: (M, L, 3, 3) float32 Å: model, residue, atom (N, CA, C), xyz; finite, zero
            where ``mask`` is False.  Those of a long trajectory may stay on the disk.
        mask: (M, L) bool, N, CA and C are all present in that model.
        sequence: L letters, X for an unknown amino acid.
        chain_index: (L,) int64, index into ``chain_ids``, 0, 1, ... in file order.
        chain_ids: name of each chain.
        residue_numbers: (L,) int64, as the file numbers them.
        insertion_codes: L strings, "" where there is none.
        bonded: (L,) bool, residue i has a peptide bond to i + 1: same chain and a C-N distance
            below 2.0 Å, in the median over the models that have both; the last is False.
        source: the file, or how the ensemble was made.
        model_numbers: M numbers, as the file numbers its models.
        report: what the reader found and dealt with.
        side_chains: heavy atoms beyond the backbone; None where they were not read or made.

    Raises:
        ValueError: if sizes, types or values do not agree with the above; names the attribute.
    """

    name: str
    coordinates: Tensor
    mask: Tensor
    sequence: str
    chain_index: Tensor
    chain_ids: tuple[str, ...]
    residue_numbers: Tensor
    insertion_codes: tuple[str, ...]
    bonded: Tensor
    source: str
    model_numbers: tuple[int, ...]
    report: ReadReport = field(default_factory=ReadReport)
    side_chains: SideChains | None = None

    def __post_init__(self) -> None:
        m, length = len(self.model_numbers), len(self.sequence)
        if m == 0 or length == 0:
            raise UserError(f"Ensemble {self.name!r}: expected models and residues, got {m} models"
                             f" of {length} residues")  # fmt: skip
        wanted = {
            "coordinates": ((m, length, 3, 3), (torch.float32, torch.float64)),
            "mask": ((m, length), (torch.bool,)),
            "chain_index": ((length,), (torch.int64,)),
            "residue_numbers": ((length,), (torch.int64,)),
            "bonded": ((length,), (torch.bool,)),
        }
        for attribute, (shape, types) in wanted.items():
            value: Tensor = getattr(self, attribute)
            if tuple(value.shape) != shape or value.dtype not in types:
                raise UserError(
                    f"Ensemble {self.name!r}: {attribute} must be {shape} of "
                    f"{' or '.join(map(str, types))} for {m} models of {length} residues, got "
                    f"{tuple(value.shape)} of {value.dtype}"
                )
        if len(self.insertion_codes) != length:
            raise UserError(
                f"Ensemble {self.name!r}: insertion_codes must have {length} entries, got "
                f"{len(self.insertion_codes)}"
            )
        if not all(bool(torch.isfinite(part).all()) for part in self.coordinates.split(_PART)):
            raise UserError(
                f"Ensemble {self.name!r}: coordinates hold NaN or infinity; write zeros and set "
                "mask to False for what is missing"
            )
        if self.side_chains is not None and self.side_chains.mask.shape[:2] != (m, length):
            raise UserError(
                f"Ensemble {self.name!r}: side_chains must be of {m} models of {length} residues, "
                f"got {tuple(self.side_chains.mask.shape[:2])}"
            )
        low, high = int(self.chain_index.min()), int(self.chain_index.max())
        if low < 0 or high >= len(self.chain_ids):
            raise UserError(
                f"Ensemble {self.name!r}: chain_index must be within the {len(self.chain_ids)} "
                f"chain_ids, got {low}..{high}"
            )
        across = self.bonded[:-1] & (self.chain_index[1:] != self.chain_index[:-1])
        if bool(self.bonded[-1]) or bool(across.any()):
            raise UserError(
                f"Ensemble {self.name!r}: bonded must be False at the last residue of each chain"
            )

    @property
    def num_models(self) -> int:
        """Number of models M."""
        return len(self.model_numbers)

    @property
    def length(self) -> int:
        """Number of residues L, over all chains."""
        return len(self.sequence)

    @property
    def aatype(self) -> Tensor:
        """(L,) int64, index of each residue's letter in ``residues.ALPHABET``, 20 for X."""
        return encode_sequence(self.sequence)

    def summary(self) -> str:
        """One line: name, size, and what the reader found and dealt with."""
        chains = ", ".join(self.chain_ids)
        of = f"chain{'s' if len(self.chain_ids) > 1 else ''} {chains}"
        models = f"{self.num_models} model{'s' if self.num_models > 1 else ''}"
        return f"{self.name}: {models}, {self.length} residues of {of}; {self.report.line()}"

    def label(self, residue: int) -> str:
        """Chain, name and number of the residue with this index, e.g. "A GLY 15B"."""
        chain = self.chain_ids[int(self.chain_index[residue])]
        number = f"{int(self.residue_numbers[residue])}{self.insertion_codes[residue]}"
        return f"{chain} {three_letter(self.sequence[residue])} {number}"

    def select_models(self, index: Sequence[int] | Tensor) -> Ensemble:
        """The models at these positions (not model numbers), in the order given.

        Args:
            index: positions 0..M-1; at least one; repeats are allowed.

        Raises:
            ValueError: if there is none.
            IndexError: if one is outside 0..M-1.
        """
        positions = [int(i) for i in index]
        for position in positions:
            if not 0 <= position < self.num_models:
                raise IndexError(
                    f"Ensemble {self.name!r}: no model at position {position}; it has "
                    f"{self.num_models}"
                )
        if not positions:
            raise UserError(f"Ensemble {self.name!r}: no model selected")
        return replace(
            self,
            coordinates=self.coordinates[positions],
            mask=self.mask[positions],
            model_numbers=tuple(self.model_numbers[i] for i in positions),
            side_chains=None if self.side_chains is None else self.side_chains.models(positions),
        )

    def select_residues(self, keep: Tensor) -> Ensemble:
        """The residues where ``keep`` (L,) bool is True; a bond over a dropped residue is gone.

        Chains without a residue left are dropped, the others numbered anew.

        Raises:
            ValueError: if ``keep`` is not (L,) bool or selects nothing.
        """
        if keep.dtype != torch.bool or tuple(keep.shape) != (self.length,):
            raise UserError(
                f"keep: expected ({self.length},) bool, got {tuple(keep.shape)} of {keep.dtype}"
            )
        if not bool(keep.any()):
            raise UserError(f"Ensemble {self.name!r}: no residue selected")
        index = torch.nonzero(keep)[:, 0]
        chains, chain_index = torch.unique(self.chain_index[index], return_inverse=True)
        next_kept = torch.cat([keep[1:], keep.new_zeros(1)])
        return replace(
            self,
            coordinates=take_residues(self.coordinates, index),
            mask=self.mask[:, index],
            sequence="".join(self.sequence[i] for i in index.tolist()),
            chain_index=chain_index,
            chain_ids=tuple(self.chain_ids[i] for i in chains.tolist()),
            residue_numbers=self.residue_numbers[index],
            insertion_codes=tuple(self.insertion_codes[i] for i in index.tolist()),
            bonded=(self.bonded & next_kept)[index],
            side_chains=None if self.side_chains is None else self.side_chains.residues(index),
        )

    def select_chain(self, chain: int | Literal["longest"]) -> Ensemble:
        """One chain.

        Args:
            chain: its index in ``chain_ids``, or "longest": the chain with most residues that are
                complete in every model; the first of them if several are.

        Raises:
            ValueError: if there is no such chain.
        """
        if chain == "longest":
            complete = self.mask.all(0).to(torch.int64)
            counts = torch.zeros(len(self.chain_ids), dtype=torch.int64)
            counts.index_add_(0, self.chain_index, complete)
            chain = counts.tolist().index(int(counts.max()))
        if not isinstance(chain, int) or not 0 <= chain < len(self.chain_ids):
            raise UserError(
                f"chain: expected 0..{len(self.chain_ids) - 1} or 'longest', got {chain!r}"
            )
        return self.select_residues(self.chain_index == chain)


def labels(ensemble: Ensemble, chosen: Tensor) -> str:
    """Residues where ``chosen`` (L,) is True, by label, as :func:`listed`."""
    return listed([ensemble.label(i) for i in chosen.nonzero()[:, 0].tolist()])


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of the names, then how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
