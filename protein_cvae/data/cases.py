"""One case per protein to judge a trained model on: which models it is given, which it must meet.

Of a known protein the given models are those of the training split, the judged ones those held
out.  Of an unseen protein nothing was learned from; its models are divided by the same rule, share
and seed, so that methods that need an ensemble can be judged on it too, and none of the judged
models decides what is core or which model is the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import labels

MIN_RESIDUES = 4
MIN_CORE = 5  # residues; a smaller core is not scored by itself


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """One protein; residues that some model lacks are left out, so every mask is True.

    Attributes:
        prepared: the ensemble, divided into given and judged models; its core
            and central model are those of the given ones.
        unseen: no relative was trained on.
        training_aatype: (n,) int64, residues of the proteins trained on.
    """

    prepared: PreparedEnsemble
    unseen: bool
    training_aatype: Tensor

    @staticmethod
    def build(
        prepared: PreparedEnsemble,
        training_aatype: Tensor,
        held_out_fraction: float = 0.2,
        seed: int = 0,
    ) -> EvaluationCase:
        """A case of a prepared ensemble.

        Args:
            prepared: with the training's split.
            training_aatype: (n,) int64.
            held_out_fraction: of the models of an unseen protein that are judged.
            seed: of their choice.

        Raises:
            ValueError: if hardly any residue is present in every model, no model is held out, or
                an unseen protein has too few models to be divided.
        """
        given, judged, common = _checked(prepared, held_out_fraction, seed)
        divided = PreparedEnsemble.build(
            prepared.index,
            prepared.ensemble.select_residues(common),
            given,
            judged,
            prepared.embedding[common],
        )
        return EvaluationCase(divided, prepared.unseen, training_aatype)

    @property
    def name(self) -> str:
        """Of the ensemble."""
        return self.prepared.ensemble.name

    @property
    def group(self) -> str:
        """The text "known" or "unseen"."""
        return "unseen" if self.unseen else "known"

    @property
    def given(self) -> tuple[int, ...]:
        """Positions of the models a method may use."""
        return self.prepared.given

    @property
    def judged(self) -> tuple[int, ...]:
        """Positions of the models a method is compared with."""
        return self.prepared.judged

    @property
    def coordinates(self) -> Tensor:
        """(M, L, 3, 3) Å, all models."""
        return self.prepared.ensemble.coordinates.float()

    @property
    def core(self) -> Tensor | None:
        """(L,) bool, the ordered core of the given models; None if it is too small to score."""
        core = self.prepared.core
        return core if int(core.sum()) >= MIN_CORE else None

    @property
    def head(self) -> dict[str, str | int]:
        """What identifies it in results: name, group, and numbers of residues and models."""
        return {
            "protein": self.name,
            "group": self.group,
            "residues": self.prepared.ensemble.length,
            "core": int(self.prepared.core.sum()),
            "given": len(self.given),
            "judged": len(self.judged),
        }

    def item(
        self, model: int | None = None, *, template: bool = True, sequence: bool = True
    ) -> ProteinBatch:
        """A batch of one: a model (the central one if omitted) with the central one as template.

        Args:
            model: position.
            template: False withholds it.
            sequence: False withholds the sequence modality.
        """
        central = self.prepared.central
        chosen = central if model is None else model
        return self.prepared.item(chosen, central if template else None, sequence)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EvaluationCase:
        """Itself: a case stays on the CPU, the batches made from it are moved."""
        return self


def _checked(
    prepared: PreparedEnsemble, held_out_fraction: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...], Tensor]:
    """Given and judged models, and (L,) bool, residues present in all of them.

    Raises:
        ValueError: as :meth:`EvaluationCase.build`.
    """
    ensemble, given, judged = prepared.ensemble, prepared.given, prepared.judged
    if prepared.unseen:
        alone = EnsembleSplit.declare([ensemble], held_out_fraction=held_out_fraction, seed=seed)
        given, judged = alone.entries[0].train, alone.entries[0].heldout
    if not judged:
        raise UserError(
            f"{ensemble.name}: no model is held out to judge on; set held_out_fraction above 0"
        )
    common = ensemble.mask.all(0)
    if int(common.sum()) < MIN_RESIDUES:
        raise UserError(
            f"{ensemble.name}: {int(common.sum())} residues are present in every model, "
            f"expected at least {MIN_RESIDUES}; leave it out"
        )
    return given, judged, common


class EvaluationCases(Dataset[EvaluationCase]):
    """The case of each ensemble, known proteins first; made when asked for.

    Args:
        known: ensembles with training models.
        unseen: ensembles without.
        held_out_fraction: see :meth:`EvaluationCase.build`.
        seed: see there.

    An index beyond the last, with which samplers fill up ranks, gives a case again.

    Raises:
        ValueError: as :meth:`EvaluationCase.build`, on the first ensemble that cannot be scored.
    """

    def __init__(
        self,
        known: Sequence[PreparedEnsemble],
        unseen: Sequence[PreparedEnsemble],
        held_out_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.ensembles = [*known, *unseen]
        self.held_out_fraction, self.seed = held_out_fraction, seed
        for prepared in self.ensembles:  # before any of them is scored, which takes minutes
            _, _, common = _checked(prepared, held_out_fraction, seed)
            if not bool(common.all()):
                ensemble = prepared.ensemble
                rank_zero_info(f"{ensemble.name}: not scored are {labels(ensemble, ~common)}, "
                               "which some model lacks")  # fmt: skip
        learned = [e.ensemble.aatype for e in known]
        self.training_aatype = torch.cat(learned) if learned else torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ensembles)

    def __iter__(self) -> Iterator[EvaluationCase]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> EvaluationCase:
        prepared = self.ensembles[index % len(self.ensembles)]
        return EvaluationCase.build(
            prepared, self.training_aatype, self.held_out_fraction, self.seed
        )
