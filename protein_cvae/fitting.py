"""Train a model from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from common.errors import UserError
from common.files.lists import one_or_several
from common.threads import compute_threads
from common.training.callbacks import EpochResources, RampedModelCheckpoint
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.in_memory import Given, InMemoryDataModule
from protein_cvae.data.settings import Chains, Incomplete
from protein_cvae.module import MONITOR, ProteinCVAEModule
from protein_cvae.presets import PRESETS, Preset, Size
from protein_cvae.trained import ProteinModel, load

CHECKPOINT_NAME = "protein_cvae.ckpt"


def fit(
    ensembles: Given | Sequence[Given],
    out: str | Path,
    size: Size | Preset = "laptop",
    epochs: int | None = None,
    families_held_out: Sequence[str] | str = (),
    embedder: SequenceEmbedder | None = None,
    accelerator: str = "auto",
    progress: bool = True,
    conformers: Sequence[str] = (),
    topology: str | None = None,
    skip_bad: bool = False,
    incomplete: Incomplete = "refuse",
    chains: Chains = "longest",
) -> ProteinModel:
    """Train a model, as ``lightning fit`` does with the configuration of that size.

    Args:
        ensembles: objects, files, folders or patterns; at least five models each.
        out: folder of the trained model, ``protein_cvae.ckpt``, and of the log.
        size: "laptop" for two cores, "full" for a GPU, "trajectory" for two cores and one long
            trajectory, or settings of your own.
        epochs: instead of those of the size.
        families_held_out: names of ensembles kept out of training with all their relatives.
        embedder: of sequences; without one the model learns its own.
        accelerator: of Lightning's Trainer.
        progress: show a bar.
        conformers: folders or glob patterns whose files are the conformers of one protein each.
        topology: of trajectory files; None for the one beside each that fits.
        skip_bad: leave out files that cannot be used, with a warning.
        incomplete: ``drop`` leaves out residues that have no place in the numbers of the first
            model of their protein; what a model lacks is masked in any case.
        chains: of files: the longest of each, or ``all`` as one object.

    Raises:
        ValueError: naming the file or setting that cannot be used.

    Example:
        >>> import protein_cvae
        >>> trained = protein_cvae.fit(ensembles, folder / "mine", tiny, progress=False)
        >>> trained.checkpoint.name
        'protein_cvae.ckpt'
    """
    if isinstance(size, str):
        if size not in PRESETS:
            raise UserError(f"size must be one of {', '.join(PRESETS)} or a Preset, got {size!r}")
        size = PRESETS[size]
    out = Path(out)
    split = size.split
    if families_held_out:
        split = replace(split, families_held_out=tuple(one_or_several(families_held_out)))
    network = size.network
    if embedder is not None:
        network = replace(network, d_embedding=embedder.width)
    sources = replace(
        size.sources,
        conformers=tuple(conformers),
        topology=topology,
        skip_bad=skip_bad,
        incomplete=incomplete,
        chains=chains,
    )
    data = InMemoryDataModule(ensembles, sources, split, size.draws, embedder, size.num_workers)
    checkpoint = out / CHECKPOINT_NAME
    with isolate_rng(), compute_threads(size.threads):
        pl.seed_everything(size.seed, workers=True, verbose=False)
        module = ProteinCVAEModule(
            network,
            size.weights,
            size.kl,
            size.rate,
            size.optimizer,
            export=str(checkpoint),
            evaluation=size.evaluation,
        )
        epochs = size.max_epochs if epochs is None else epochs
        _trainer(out, epochs, accelerator, progress).fit(module, data)
    return load(checkpoint, embedder)


def _trainer(out: Path, epochs: int, accelerator: str, progress: bool) -> pl.Trainer:
    logger = TensorBoardLogger(out, name="log")
    return pl.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        # Under SLURM Lightning saves there and loads from there unasked: one folder for each fit.
        default_root_dir=logger.log_dir,
        logger=logger,
        callbacks=[
            RampedModelCheckpoint(MONITOR),
            ModelCheckpoint(save_last=True),  # beside a monitor: with the best alone
            EpochResources(),
        ],
        gradient_clip_val=1.0,
        devices=1,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=progress,
    )
