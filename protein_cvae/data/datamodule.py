"""Ensembles to streams of conformers with templates, for training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.files.lists import one_or_several
from common.training.loader import DrawLoader
from common.training.sampler import DrawSampler
from common.training.scaling import rate_factor
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.draws import HeldOutItems, TrainingDraws
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.prepared import PreparedEnsemble, joined_embedding
from protein_cvae.data.reading import source_ensembles
from protein_cvae.data.record import DataRecord
from protein_cvae.data.settings import DrawSettings, SimulationSettings, Sources, SplitSettings
from protein_cvae.data.splits import EnsembleSplit, chain_sequences
from protein_cvae.ensemble import Ensemble

_CONFORMERS = (
    "; where each file is one conformer of a protein, give their folder or pattern in "
    "sources.conformers (--conformers): they are one ensemble then"
)


class EnsembleDataModule(pl.LightningDataModule):
    """Ensembles of proteins, as batches of conformers of similar length.

    Training draws several training models of one protein together, each with another training
    model of that protein as template (:mod:`protein_cvae.data.draws`).  Validation has one loader
    for held-out models of known proteins and, with ``split.families_held_out``, a second one for
    unseen proteins.  Predict has the same loaders with every held-out model; test gives one
    :class:`~protein_cvae.data.cases.EvaluationCase` per protein.

    Which models are held out is in :attr:`split`, which goes into checkpoints: a resumed training
    with another split is refused, and so is scoring what was learned from.

    Args:
        sources: files; without any, ensembles are simulated.
        simulate: the ensembles to simulate where no file is given; null to refuse instead.
        split: which models are held out.
        draws: what is drawn.
        embedder: of sequences; null leaves the model to learn its own.
        num_workers: loader processes.
        pin_memory: load into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        sources: Sources = Sources(),
        simulate: SimulationSettings | None = SimulationSettings(),
        split: SplitSettings = SplitSettings(),
        draws: DrawSettings = DrawSettings(),
        embedder: SequenceEmbedder | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.sources, self.simulate = sources, simulate
        self.split_settings, self.draws = split, draws
        self.embedder = embedder
        self.num_workers, self.pin_memory = num_workers, pin_memory
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
    def ensembles(self) -> list[Ensemble]:
        """What was read; each says in ``report`` what was dropped, masked or renamed."""
        return [prepared.ensemble for prepared in self._prepared]

    @property
    def known(self) -> list[PreparedEnsemble]:
        """Ensembles with training models."""
        return [e for e in self._prepared if not e.unseen]

    @property
    def unseen(self) -> list[PreparedEnsemble]:
        """Ensembles kept out of training entirely."""
        return [e for e in self._prepared if e.unseen]

    def prepare_data(self) -> None:
        self.draws.batch_of_process(self._world)
        # Everything that may be wrong with the files is found before anything is trained.
        self.setup("fit")

    def setup(self, stage: str) -> None:
        if self._prepared:
            return
        ensembles = self.read()
        split = EnsembleSplit.declare(
            ensembles,
            one_or_several(self.split_settings.families_held_out),
            self.split_settings.families,
            self.split_settings.held_out_fraction,
            self.split_settings.seed,
            self.split_settings.blocks,
        )
        lonely = [e.name for e in split.entries if e.unseen and len(e.heldout) < 2]
        if lonely:
            raise UserError(
                f"unseen ensembles {', '.join(lonely)} have one model: nothing is left to score "
                "beside the template; raise min_models to 2"
            )
        embeddings = self._embed(ensembles)
        self._prepared = [
            PreparedEnsemble.build(index, ensemble, entry.train, entry.heldout, rows)
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
        chosen = self.sources
        kept, left_out = [], []
        for ensemble in self._ensembles():
            if ensemble.num_models < chosen.min_models:
                left_out.append(f"{ensemble.name} ({ensemble.num_models} models)")
            elif ensemble.length > chosen.max_length:
                left_out.append(f"{ensemble.name} ({ensemble.length} residues)")
            else:
                kept.append(ensemble)
        if not kept:
            raise UserError(
                f"no ensemble has min_models {chosen.min_models} and at most max_length "
                f"{chosen.max_length} residues: {', '.join(left_out)}"
                + (_CONFORMERS if "(1 models)" in "".join(left_out) else "")
            )
        if left_out:
            rank_zero_warn(
                f"left out for min_models {chosen.min_models} or max_length {chosen.max_length}: "
                f"{', '.join(left_out)}"
            )
        return kept

    def _ensembles(self) -> Iterator[Ensemble]:
        return source_ensembles(self.sources, self.simulate)

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

    @property
    def _world(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rate_factor(self) -> float:
        """Factor of the learning rate for the number of processes."""
        return rate_factor(self.draws.scaling, self._world)

    # -- loaders --------------------------------------------------------------------------------

    def train_dataset(self, world: int) -> TrainingDraws:
        """The training draws for ``world`` processes."""
        return TrainingDraws(self.known, self.draws, world)

    def train_dataloader(self) -> DataLoader[ProteinBatch]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        world = self.trainer.world_size
        dataset = self.train_dataset(world)
        sampler = DrawSampler(len(dataset), world, self.trainer.global_rank)
        size = self.draws.batch_of_process(world)
        return DrawLoader(dataset, sampler, size, collate, self.num_workers, self.pin_memory)

    def val_dataloader(self) -> list[DataLoader[ProteinBatch]]:
        return self._held_out(self.draws.val_models_per_protein)

    @property
    def cases(self) -> EvaluationCases:
        """One case per protein to judge a trained model on; known after ``setup``."""
        return EvaluationCases(
            self.known,
            self.unseen,
            self.split_settings.held_out_fraction,
            self.split_settings.seed,
            self.sources.incomplete,
            self.sources.skip_bad,
            self.split_settings.blocks,
        )

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
                size = self.draws.batch_proteins * self.draws.models_per_protein
                loaders.append(
                    DataLoader(
                        dataset,
                        batch_size=size,
                        sampler=sampler,
                        collate_fn=collate,
                        num_workers=self.num_workers,
                        pin_memory=self.pin_memory,
                    )
                )
        return loaders

    # -- checkpoints ----------------------------------------------------------------------------

    def record(self) -> DataRecord:
        """The split and the embedder's identity, of plain types, for a checkpoint."""
        identity = None if self.embedder is None else self.embedder.identity
        return {"split": self.split.to_dict(), "embedder": identity}

    def check_record(self, record: DataRecord | None, resume: bool) -> None:
        """Refuse data that do not fit a trained model.

        Args:
            record: what :meth:`record` gave in training; None where the checkpoint has none.
            resume: the training goes on, so the split must be the same; otherwise what is scored
                must not have been learned from.

        Raises:
            ValueError: saying what differs.
        """
        if record is None:
            if resume:
                return
            raise UserError(
                "the checkpoint does not say which models it was trained on, so nothing can be "
                "scored with it without the risk of scoring what was learned from; train it with "
                "EnsembleDataModule"
            )
        ours = self.record()
        if record["embedder"] != ours["embedder"]:
            raise UserError(
                f"the model was trained with sequence embedder {_short(record['embedder'])}, the "
                f"data have {_short(ours['embedder'])}; set data.init_args.embedder as in training"
            )
        trained = EnsembleSplit.from_dict(record["split"])
        if resume:
            trained.check_same(self.split)
        else:
            trained.check_use(self.split)


def _short(identity: str | None) -> str:
    return "none" if identity is None else identity[:12]
