"""One case per protein to judge a trained model on: which models it is given, which it must meet.

Models are compared residue by residue: those that some model lacks are refused, or left out.

Of a known protein the given models are those of the training split, the judged ones those held
out.  Of an unseen protein nothing was learned from; its models are divided by the same rule, share
and seed, so that methods that need an ensemble can be judged on it too, and none of the judged
models decides what is core or which model is the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.settings import GO_ON, Incomplete, TimeBlocks
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import LEFT_OUT, Ensemble, labels

MIN_RESIDUES = 4
MIN_CORE = 5  # residues; a smaller core is not scored by itself


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """One protein, of the residues that all models have, so every mask is True.

    Attributes:
        prepared: the ensemble, divided into given and judged models; its core
            and central model are those of the given ones.
        unseen: no relative was trained on.
        training_aatype: (n,) int64, residues of the proteins trained on.
        left_out: residues that some model lacks, and those that reading left out.
    """

    prepared: PreparedEnsemble
    unseen: bool
    training_aatype: Tensor
    left_out: tuple[str, ...] = ()

    @staticmethod
    def build(
        prepared: PreparedEnsemble,
        training_aatype: Tensor,
        held_out_fraction: float = 0.2,
        seed: int = 0,
        blocks: TimeBlocks = TimeBlocks(),
    ) -> EvaluationCase:
        """A case of a prepared ensemble; residues that some model lacks are left out.

        Args:
            prepared: with the training's split.
            training_aatype: (n,) int64.
            held_out_fraction: of the models of an unseen protein that are judged.
            seed: of their choice.
            blocks: in which they are chosen.

        Raises:
            ValueError: if hardly any residue is present in every model, no model is held out, or
                an unseen protein has too few models to be divided.
        """
        given, judged, common = _checked(prepared, held_out_fraction, seed, blocks)
        divided = PreparedEnsemble.build(
            prepared.index,
            prepared.ensemble.select_residues(common),
            given,
            judged,
            prepared.embedding[common],
        )
        return EvaluationCase(
            divided, prepared.unseen, training_aatype, _left_out(prepared.ensemble, common)
        )

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
    def head(self) -> dict[str, Any]:
        """What identifies it in results: name, group, numbers of residues and models, left out."""
        return {
            "protein": self.name,
            "group": self.group,
            "residues": self.prepared.ensemble.length,
            "core": int(self.prepared.core.sum()),
            "given": len(self.given),
            "judged": len(self.judged),
            "left_out": list(self.left_out),
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
    prepared: PreparedEnsemble, held_out_fraction: float, seed: int, blocks: TimeBlocks
) -> tuple[tuple[int, ...], tuple[int, ...], Tensor]:
    """Given and judged models, and (L,) bool, residues present in all of them.

    Raises:
        ValueError: as :meth:`EvaluationCase.build`.
    """
    ensemble, given, judged = prepared.ensemble, prepared.given, prepared.judged
    if prepared.unseen:
        alone = EnsembleSplit.declare(
            [ensemble], held_out_fraction=held_out_fraction, seed=seed, blocks=blocks
        )
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


def _left_out(ensemble: Ensemble, common: Tensor) -> tuple[str, ...]:
    """Residues that are not ``common`` (L,), and those of its chains that reading left out."""
    found = [ensemble.label(i) for i in (~common).nonzero()[:, 0].tolist()]
    for note in ensemble.report.of_kind(LEFT_OUT):
        if note.residue.split()[0] in (*ensemble.chain_ids, "-"):
            found.append(f"{note.residue} {note.detail}")
    return tuple(dict.fromkeys(found))


def _incomplete(ensemble: Ensemble, common: Tensor) -> str:
    """Why an ensemble of which some model lacks residues is refused."""
    lacking = (~ensemble.mask.all(1)).nonzero()[:, 0].tolist()
    number = ensemble.model_numbers[lacking[0]]
    of = [note.detail for note in ensemble.report.of_kind("conformer") if note.model == number]
    which = "".join(f", which {detail}," for detail in of)
    more = f" and {len(lacking) - 1} more lack" if len(lacking) > 1 else " lacks"
    return (
        f"{ensemble.source}: model {number}{which}{more} N, CA or C of residues: "
        f"{labels(ensemble, ~common)}; set incomplete: drop (--incomplete drop) to score the "
        "residues that all models have"
    )


class EvaluationCases(Dataset[EvaluationCase]):
    """The case of each ensemble, known proteins first; made when asked for.

    Args:
        known: ensembles with training models.
        unseen: ensembles without.
        held_out_fraction: see :meth:`EvaluationCase.build`.
        seed: see there.
        incomplete: ``drop`` leaves out residues that some model lacks, ``refuse`` refuses them.
        skip_bad: leave out ensembles that cannot be scored, with a warning.
        blocks: see :meth:`EvaluationCase.build`.

    An index beyond the last, with which samplers fill up ranks, gives a case again.

    Raises:
        ValueError: as :meth:`EvaluationCase.build`, and on residues that are refused; names all
            ensembles that cannot be scored.
    """

    def __init__(
        self,
        known: Sequence[PreparedEnsemble],
        unseen: Sequence[PreparedEnsemble],
        held_out_fraction: float = 0.2,
        seed: int = 0,
        incomplete: Incomplete = "refuse",
        skip_bad: bool = False,
        blocks: TimeBlocks = TimeBlocks(),
    ) -> None:
        self.ensembles: list[PreparedEnsemble] = []
        self.held_out_fraction, self.seed, self.blocks = held_out_fraction, seed, blocks
        bad = []
        given = [*known, *unseen]
        for prepared in given:  # before any of them is scored, which takes minutes
            try:
                _, _, common = _checked(prepared, held_out_fraction, seed, blocks)
                if incomplete == "refuse" and not bool(common.all()):
                    raise UserError(_incomplete(prepared.ensemble, common))
                self.ensembles.append(prepared)
            except UserError as error:
                bad.append(str(error))
        told = f"{len(bad)} of {len(given)} proteins cannot be scored: {'; '.join(bad)}"
        if bad and skip_bad and self.ensembles:
            rank_zero_warn(f"skip_bad: {told}")
        elif bad:
            raise UserError((told if len(bad) > 1 else bad[0]) + (GO_ON if self.ensembles else ""))
        learned = [e.ensemble.aatype for e in known]
        self.training_aatype = torch.cat(learned) if learned else torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ensembles)

    def __iter__(self) -> Iterator[EvaluationCase]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> EvaluationCase:
        prepared = self.ensembles[index % len(self.ensembles)]
        return EvaluationCase.build(
            prepared, self.training_aatype, self.held_out_fraction, self.seed, self.blocks
        )
