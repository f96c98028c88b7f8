"""Ensembles to streams of conformers with templates, for training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.training.sampler import DrawSampler, epoch_to_draw
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.draws import HeldOutItems, TrainingDraws
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.prepared import PreparedEnsemble, joined_embedding
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.data.splits import EnsembleSplit, chain_sequences
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.find import find_ensembles, load_ensemble
from protein_cvae.io.read import structure_name

Chains = Literal["longest", "all"]
# Distinguishes a simulation from an experimental ensemble of the same protein.
_TRAJECTORY_PREFIX = "md_"


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


class EnsembleDataModule(pl.LightningDataModule):
    """Ensembles of proteins, as batches of conformers of similar length.

    Training draws several training models of one protein together, each with another training
    model of that protein as template (:mod:`protein_cvae.data.draws`).  Validation has one loader
    for held-out models of known proteins and, with ``families_held_out``, a second one for unseen
    proteins.  Predict has the same loaders with every held-out model; test gives one
    :class:`~protein_cvae.data.cases.EvaluationCase` per protein.

    Which models are held out is in :attr:`split`, which goes into checkpoints: a resumed training
    with another split is refused, and so is scoring what was learned from.

    Args:
        structures: PDB and mmCIF files, folders or glob patterns.  Without any, and without
            ``trajectories``, ensembles are simulated.
        trajectories: folders with a topology and trajectories, folders of such, or patterns.  Such
            an ensemble is called "md_" and the folder's name.
        simulate: the ensembles to simulate where no path is given; null to refuse instead.
        chains: the longest chain of each structure, or all.
        max_length: longest protein, in residues; longer ones are left out with a warning.
        max_frames: most frames of each trajectory folder, evenly spaced.
        min_models: fewest models; ensembles with fewer are left out with a warning.
        families_held_out: names of ensembles kept out of training with all their relatives.
        families: names of relatives that sequence identity does not see.
        held_out_fraction: of the models of each other ensemble.
        split_seed: of the choice of held-out models.
        embedder: of sequences; null leaves the model to learn its own.
        batch_proteins: proteins per step and process.
        models_per_protein: conformers of each of them.
        template_dropout: share of training items without template.
        sequence_dropout: share of training items without the sequence modality.
        draws_per_epoch: training draws per epoch over all processes, of ``models_per_protein``
            conformers each.
        val_models_per_protein: most held-out models of each protein in validation; null for all.
        seed: of all draws.
        num_workers: loader processes.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: on a number out of range.
    """

    def __init__(
        self,
        structures: list[str] | None = None,
        trajectories: list[str] | None = None,
        simulate: SimulationSettings | None = SimulationSettings(),
        chains: Chains = "longest",
        max_length: int = 400,
        max_frames: int = 100,
        min_models: int = 5,
        families_held_out: list[str] | None = None,
        families: list[list[str]] | None = None,
        held_out_fraction: float = 0.2,
        split_seed: int = 0,
        embedder: SequenceEmbedder | None = None,
        batch_proteins: int = 4,
        models_per_protein: int = 2,
        template_dropout: float = 0.1,
        sequence_dropout: float = 0.1,
        draws_per_epoch: int = 256,
        val_models_per_protein: int | None = 4,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        counts = {
            "max_length": max_length,
            "max_frames": max_frames,
            "min_models": min_models,
            "batch_proteins": batch_proteins,
            "models_per_protein": models_per_protein,
            "draws_per_epoch": draws_per_epoch,
            "val_models_per_protein": val_models_per_protein or 1,
        }
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"{name} must be at least 1, got {count}")
        shares = {
            "held_out_fraction": held_out_fraction,
            "template_dropout": template_dropout,
            "sequence_dropout": sequence_dropout,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {share}")
        if chains not in ("longest", "all"):
            raise UserError(f"chains must be 'longest' or 'all', got {chains!r}")
        if families_held_out and held_out_fraction == 0:
            raise UserError(
                "held_out_fraction must be positive with families_held_out: the first validation "
                "loader is that of known proteins"
            )
        self.structures, self.trajectories = structures or [], trajectories or []
        self.simulate = simulate
        self.chains, self.max_length = chains, max_length
        self.max_frames, self.min_models = max_frames, min_models
        self.families_held_out, self.families = families_held_out or [], families or []
        self.held_out_fraction, self.split_seed = held_out_fraction, split_seed
        self.embedder = embedder
        self.batch_proteins, self.models_per_protein = batch_proteins, models_per_protein
        self.template_dropout, self.sequence_dropout = template_dropout, sequence_dropout
        self.draws_per_epoch = draws_per_epoch
        self.val_models_per_protein = val_models_per_protein
        self.seed, self.num_workers, self.pin_memory = seed, num_workers, pin_memory
        self._prepared: list[PreparedEnsemble] = []
        self._split: EnsembleSplit | None = None

    # -- data -----------------------------------------------------------------------------------

    @property
    def embedding_width(self) -> int:
        """D of the sequence embedding; 0 without an embedder."""
        return 0 if self.embedder is None else self.embedder.width

    @property
    def split(self) -> EnsembleSplit:
        """Which models are learned from; known after ``setup``."""
        if self._split is None:
            raise RuntimeError("the split is known after setup()")
        return self._split

    @property
    def known(self) -> list[PreparedEnsemble]:
        """Ensembles with training models."""
        return [e for e in self._prepared if not e.entry.unseen]

    @property
    def unseen(self) -> list[PreparedEnsemble]:
        """Ensembles kept out of training entirely."""
        return [e for e in self._prepared if e.entry.unseen]

    def prepare_data(self) -> None:
        # Everything that may be wrong with the files is found before anything is trained.
        self.setup("fit")

    def setup(self, stage: str) -> None:
        if self._prepared:
            return
        ensembles = self.read()
        split = EnsembleSplit.declare(
            ensembles,
            self.families_held_out,
            self.families,
            self.held_out_fraction,
            self.split_seed,
        )
        lonely = [e.name for e in split.entries if e.unseen and len(e.heldout) < 2]
        if lonely:
            raise UserError(
                f"unseen ensembles {', '.join(lonely)} have one model: nothing is left to score "
                "beside the template; raise min_models to 2"
            )
        embeddings = self._embed(ensembles)
        self._prepared = [
            PreparedEnsemble.build(index, ensemble, entry, rows)
            for index, (ensemble, entry, rows) in enumerate(
                zip(ensembles, split.entries, embeddings, strict=True)
            )
        ]
        self._split = split
        self.train_dataset(1)  # refuses ensembles that are too small

    def read(self) -> list[Ensemble]:
        """All ensembles, of the chosen chains, that are neither too long nor too small.

        Raises:
            FileNotFoundError: if a path does not exist or matches nothing.
            ValueError: if a file is refused, or no ensemble is left; names the files.
        """
        kept, left_out = [], []
        for ensemble in self._ensembles():
            if ensemble.num_models < self.min_models:
                left_out.append(f"{ensemble.name} ({ensemble.num_models} models)")
            elif ensemble.length > self.max_length:
                left_out.append(f"{ensemble.name} ({ensemble.length} residues)")
            else:
                kept.append(ensemble)
        if not kept:
            raise UserError(
                f"no ensemble has min_models {self.min_models} and at most max_length "
                f"{self.max_length} residues: {', '.join(left_out)}"
            )
        if left_out:
            rank_zero_warn(
                f"left out for min_models {self.min_models} or max_length {self.max_length}: "
                f"{', '.join(left_out)}"
            )
        return kept

    def _ensembles(self) -> Iterator[Ensemble]:
        groups = [group for group in (self.structures, self.trajectories) if group]
        if not groups:
            made = self.simulate
            if made is None:
                raise UserError(
                    "no data: give files, folders or patterns in data.init_args.structures or "
                    "trajectories, or set data.init_args.simulate"
                )
            yield from simulate_ensembles(
                made.num_proteins, made.num_models, made.min_length, made.max_length, made.seed
            )
        for path in dict.fromkeys(path for group in groups for path in find_ensembles(group)):
            yield self._read_one(path)

    def _read_one(self, path: Path) -> Ensemble:
        name = _TRAJECTORY_PREFIX + path.resolve().name if path.is_dir() else structure_name(path)
        ensemble = load_ensemble(path, name=name, max_frames=self.max_frames)
        if self.chains == "longest":
            ensemble = ensemble.select_chain("longest")
        # A residue that no model has tells nothing.
        present = ensemble.mask.any(0)
        return ensemble if bool(present.all()) else ensemble.select_residues(present)

    def _embed(self, ensembles: Sequence[Ensemble]) -> list[torch.Tensor | None]:
        if self.embedder is None:
            return [None] * len(ensembles)
        chains = [chain_sequences(ensemble) for ensemble in ensembles]
        flat = self.embedder.embed([sequence for group in chains for sequence in group])
        rows = iter(torch.from_numpy(array) for array in flat)
        return [
            joined_embedding([next(rows) for _ in group], ensemble)
            for group, ensemble in zip(chains, ensembles, strict=True)
        ]

    # -- loaders --------------------------------------------------------------------------------

    def train_dataset(self, world: int) -> TrainingDraws:
        """The training draws for ``world`` processes."""
        return TrainingDraws(
            self.known,
            -(-self.draws_per_epoch // world) * world,
            self.models_per_protein,
            self.batch_proteins * world,
            self.template_dropout,
            self.sequence_dropout,
            self.seed,
        )

    def train_dataloader(self) -> DataLoader[ProteinBatch]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        world = self.trainer.world_size
        dataset = self.train_dataset(world)
        sampler = DrawSampler(len(dataset), world, self.trainer.global_rank)
        # Lightning's own call comes too late for worker processes after a resume.
        batches = -(-len(sampler) // self.batch_proteins)
        sampler.set_epoch(epoch_to_draw(self.trainer, batches))
        return self._loader(dataset, sampler, self.batch_proteins)

    def val_dataloader(self) -> list[DataLoader[ProteinBatch]]:
        return self._held_out(self.val_models_per_protein)

    @property
    def cases(self) -> EvaluationCases:
        """One case per protein to judge a trained model on; known after ``setup``."""
        return EvaluationCases(self.known, self.unseen, self.held_out_fraction, self.split_seed)

    def test_dataloader(self) -> DataLoader[EvaluationCase]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        world, cases = self.trainer.world_size, self.cases
        draws = -(-len(cases) // world) * world
        sampler = DrawSampler(draws, world, self.trainer.global_rank, advance=False)
        return DataLoader(cases, batch_size=None, sampler=sampler)

    def predict_dataloader(self) -> list[DataLoader[ProteinBatch]]:
        return self._held_out(None)

    def _held_out(self, per_protein: int | None) -> list[DataLoader[ProteinBatch]]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        world = self.trainer.world_size
        loaders = []
        for ensembles in (self.known, self.unseen):
            dataset = HeldOutItems(ensembles, per_protein)
            if len(dataset):
                # Equal counts on every rank, or ranks wait for each other for ever.
                draws = -(-len(dataset) // world) * world
                sampler = DrawSampler(draws, world, self.trainer.global_rank, advance=False)
                size = self.batch_proteins * self.models_per_protein
                loaders.append(self._loader(dataset, sampler, size))
        return loaders

    def _loader(
        self, dataset: Dataset[ProteinBatch], sampler: DrawSampler, size: int
    ) -> DataLoader[ProteinBatch]:
        return DataLoader(
            dataset,
            batch_size=size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    # -- checkpoints ----------------------------------------------------------------------------

    def split_state(self) -> dict[str, Any]:
        """The split and the embedder's identity, of plain types, for a checkpoint."""
        identity = None if self.embedder is None else self.embedder.identity
        return {"split": self.split.to_dict(), "embedder": identity}

    def check_state(self, state: dict[str, Any], resume: bool) -> None:
        """Refuse data that do not fit a trained model.

        Args:
            state: what :meth:`split_state` gave in training.
            resume: the training goes on, so the split must be the same; otherwise what is scored
                must not have been learned from.

        Raises:
            ValueError: saying what differs.
        """
        ours = self.split_state()
        if state["embedder"] != ours["embedder"]:
            raise UserError(
                f"the model was trained with sequence embedder {_short(state['embedder'])}, the "
                f"data have {_short(ours['embedder'])}; set data.init_args.embedder as in training"
            )
        trained = EnsembleSplit.from_dict(state["split"])
        if resume:
            trained.check_same(self.split)
        else:
            trained.check_use(self.split)

    def state_dict(self) -> dict[str, Any]:
        return self.split_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.trainer is not None, "checkpoints are restored by a Trainer"
        self.check_state(state_dict, resume=self.trainer.state.fn == TrainerFn.FITTING)


def _short(identity: str | None) -> str:
    return "none" if identity is None else identity[:12]
