"""Settings of the data, by subject: where it comes from, how it is split, what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import UserError
from common.files.lists import FrozenTexts
from common.training.scaling import Scaling, batch_of_process, check_scaling

Chains = Literal["longest", "all"]
Incomplete = Literal["refuse", "drop"]
"""What happens to residues that not all models have."""

GO_ON = "; set skip_bad (--skip-bad) to go on without"


def check_counts(**counts: int) -> None:
    """Raise ValueError, naming it, unless every number is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, got {count}")


def check_shares(**shares: float) -> None:
    """Raise ValueError, naming it, unless every number lies in [0, 1]."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"{name} must lie in [0, 1], got {share}")


def check_incomplete(incomplete: str) -> None:
    """Raise ValueError unless it is a word of :data:`Incomplete`."""
    if incomplete not in ("refuse", "drop"):
        raise UserError(f"incomplete must be 'refuse' or 'drop', got {incomplete!r}")


@dataclass(frozen=True)
class SimulationSettings:
    """Simulated ensembles, called "simulated_<seed>_<number>"; see
    :mod:`protein_cvae.data.simulate`.

    Attributes:
        num_proteins: how many.
        num_models: of each.
        min_length: fewest residues.
        max_length: most residues.
        seed: of all.
    """

    num_proteins: int = 6
    num_models: int = 20
    min_length: int = 40
    max_length: int = 80
    seed: int = 0


@dataclass(frozen=True)
class Sources:
    """Where ensembles come from, and which are taken.

    Attributes:
        structures: PDB and mmCIF files, folders or glob patterns, or one.  Without any, and without
            ``trajectories``, ensembles are simulated.
        trajectories: folders with a topology and trajectories, folders of such, trajectory files,
            or patterns.  Such an ensemble is called ``md_`` and the folder's or file's name.
        conformers: folders, or glob patterns, of one protein each: its structure files are one
            ensemble together.
        topology: of trajectory files; null for the one beside each that fits.
        chains: the longest chain of each structure, or all.
        max_length: longest protein, in residues; longer ones are left out with a warning.
        max_frames: most frames of each trajectory folder, evenly spaced; null for all.
        cache: folder that keeps the backbone frames of trajectories, made when first needed; they
            are mapped into memory from there (:mod:`protein_cvae.io.mapped`).  null reads them
            into memory.
        min_models: fewest models; ensembles with fewer are left out with a warning.
        skip_bad: leave out files that cannot be used, with a warning, instead of refusing them.
        incomplete: of residues that not all models of a protein have.  Training masks what a model
            lacks, but has no place for what the first models lack (matched by number, else by
            sequence alignment); evaluation scores the residues of all models.  ``refuse`` names
            those that stand in the way, ``drop`` leaves them out.

    Raises:
        ValueError: on a number out of range or another word.
    """

    structures: FrozenTexts = ()
    trajectories: FrozenTexts = ()
    conformers: FrozenTexts = ()
    topology: str | None = None
    chains: Chains = "longest"
    max_length: int = 400
    max_frames: int | None = 100
    cache: str | None = None
    min_models: int = 5
    skip_bad: bool = False
    incomplete: Incomplete = "refuse"

    def __post_init__(self) -> None:
        check_incomplete(self.incomplete)
        check_counts(
            max_length=self.max_length,
            max_frames=1 if self.max_frames is None else self.max_frames,
            min_models=self.min_models,
        )
        if self.chains not in ("longest", "all"):
            raise UserError(f"chains must be 'longest' or 'all', got {self.chains!r}")


@dataclass(frozen=True)
class TimeBlocks:
    """Held-out models in blocks that follow each other.

    Frames of a trajectory are near-copies of their neighbours: held out one by one, each would be
    judged beside a training frame that all but equals it.

    Attributes:
        count: of equal blocks, in the order of the models, of which whole ones are held out; 0
            holds models out one by one, as independent models of NMR may be.
        gap: share of a block's length on each side of a held-out block that is in neither part;
            it should last longer than the slowest motion takes.

    Raises:
        ValueError: on a count below 0 or of 1, or a gap outside [0, 1].
    """

    count: int = 0
    gap: float = 0.1

    def __post_init__(self) -> None:
        if self.count < 0 or self.count == 1:
            raise UserError(f"blocks.count must be 0 or at least 2, got {self.count}")
        check_shares(**{"blocks.gap": self.gap})


@dataclass(frozen=True)
class SplitSettings:
    """Which models are held out.

    Attributes:
        families_held_out: names of ensembles, or one, kept out of training with all their
            relatives.
        families: names of relatives that sequence identity does not see.
        held_out_fraction: of the models of each other ensemble, or of its blocks.
        seed: of the choice of held-out models or blocks.
        blocks: of frames, for trajectories.

    Raises:
        ValueError: on a fraction outside [0, 1], or 0 with ``families_held_out``.
    """

    families_held_out: FrozenTexts = ()
    families: tuple[tuple[str, ...], ...] = ()
    held_out_fraction: float = 0.2
    seed: int = 0
    blocks: TimeBlocks = TimeBlocks()

    def __post_init__(self) -> None:
        check_shares(held_out_fraction=self.held_out_fraction)
        if self.families_held_out and self.held_out_fraction == 0:
            raise UserError(
                "held_out_fraction must be positive with families_held_out: the first validation "
                "loader is that of known proteins"
            )


@dataclass(frozen=True)
class DrawSettings:
    """What is drawn in training and validation.

    Attributes:
        batch_proteins: proteins per step and process; with ``scaling=batch`` of all processes
            together.
        scaling: what changes with the number of processes (:mod:`common.training.scaling`).
        models_per_protein: conformers of each of them.
        central_templates: share of training items whose template is the central model, as it is
            in validation and about as it is in use; of the others it is any.
        template_dropout: share of training items without template.
        sequence_dropout: share of training items without the sequence modality.
        per_epoch: training draws per epoch over all processes, of ``models_per_protein``
            conformers each.
        val_models_per_protein: most held-out models of each protein in validation; null for all.
        seed: of all draws.

    Raises:
        ValueError: on a number out of range.
    """

    batch_proteins: int = 4
    scaling: Scaling = "none"
    models_per_protein: int = 2
    central_templates: float = 0.75
    template_dropout: float = 0.1
    sequence_dropout: float = 0.1
    per_epoch: int = 256
    val_models_per_protein: int | None = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(
            batch_proteins=self.batch_proteins,
            models_per_protein=self.models_per_protein,
            per_epoch=self.per_epoch,
            val_models_per_protein=self.val_models_per_protein or 1,
        )
        check_shares(
            central_templates=self.central_templates,
            template_dropout=self.template_dropout,
            sequence_dropout=self.sequence_dropout,
        )
        check_scaling(self.scaling)

    def batch_of_process(self, world: int) -> int:
        """Proteins per step of each of ``world`` processes."""
        return batch_of_process(self.batch_proteins, self.scaling, world, "draws.batch_proteins")
