"""What the tasks read, and what is wrong with it, found before any model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path

import torch

from common.errors import MissingFile, UserError
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.prepared import PreparedEnsemble, joined_embedding
from protein_cvae.data.settings import Incomplete, check_incomplete
from protein_cvae.data.splits import chain_sequences
from protein_cvae.ensemble import Ensemble, Note, ReadReport, listed
from protein_cvae.io.find import load_ensemble
from protein_cvae.io.formats import fasta
from protein_cvae.io.matching import match_residues
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.side_chains import join_models

MAX_RESIDUES = 1000
MIN_RESIDUES = 4  # a superposition is unique
CHAIN_LEFT_OUT = "chain left out"


@dataclass(frozen=True)
class ReadingOptions:
    """What is taken of an input.

    Attributes:
        chains: ``longest``, ``all``, a chain ID, or several with commas between them, e.g. ``A,B``.
            Several are one object: drawn together, with the interfaces of the template.
        incomplete: ``drop`` leaves out residues that some model lacks, or has without N, CA or C.
        max_frames: most frames of trajectories, evenly spaced; None for all.
        topology: of a trajectory file; None for the one beside it that fits.

    Raises:
        ValueError: on another word.
    """

    chains: str = "longest"
    incomplete: Incomplete = "refuse"
    max_frames: int | None = 100
    topology: str | None = None

    def __post_init__(self) -> None:
        check_incomplete(self.incomplete)


def read_input(
    path: str | Path,
    argument: str,
    options: ReadingOptions = ReadingOptions(),
    side_chains: bool = False,
) -> Ensemble:
    """Read a structure file or a trajectory folder and keep the residues that are wanted.

    Args:
        path: PDB, mmCIF or FASTA file, trajectory, folder with a topology and trajectories, or
            folder or glob pattern of files with a conformer each.
        argument: name of the option it came from, for messages.
        options: what is taken of it.
        side_chains: read their heavy atoms, too.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is refused, or has no such chain; see ``read_structure``.
    """
    if Path(path).suffix.lower() in fasta.SUFFIXES:
        return fasta.read(_existing(path, argument), argument)
    return taken(_load(path, argument, options, side_chains), options)


def read_chains(
    path: str | Path, argument: str, options: ReadingOptions, side_chains: bool = False
) -> Ensemble:
    """As :func:`read_input` of a structure, with all residues of the chains that are wanted."""
    return select_chains(_load(path, argument, options, side_chains), options.chains)


def _existing(path: str | Path, argument: str) -> Path:
    path = Path(path)
    if not path.exists() and not has_magic(str(path)):
        raise MissingFile(f"{argument}: no such file or folder: {path}")
    return path


def _load(path: str | Path, argument: str, options: ReadingOptions, side_chains: bool) -> Ensemble:
    return load_ensemble(
        _existing(path, argument),
        topology=options.topology,
        max_frames=options.max_frames,
        drop=options.incomplete == "drop",
        side_chains=side_chains,
    )


def taken(ensemble: Ensemble, options: ReadingOptions) -> Ensemble:
    """The chains and residues that are wanted of an ensemble.

    Raises:
        ValueError: if it has no such chain, or no complete residue.
    """
    ensemble = select_chains(ensemble, options.chains)
    whole = ensemble.mask.all(0)
    if options.incomplete == "drop" and not bool(whole.all()):
        if not bool(whole.any()):
            raise UserError(f"{ensemble.source}: no residue has N, CA and C in every model")
        ensemble = ensemble.select_residues(whole)
    return ensemble


def select_chains(ensemble: Ensemble, chains: str) -> Ensemble:
    """The longest chain, all chains, or those of these IDs, with a note on what is left out."""
    if chains == "all":
        return ensemble
    if chains == "longest":
        taken = ensemble.select_chain("longest")
        return _without(taken, ensemble, "the longest chain is taken; chains all takes all")
    wanted = [name.strip() for name in chains.split(",")]
    for name in wanted:
        if name not in ensemble.chain_ids or wanted.count(name) > 1:
            counts = torch.bincount(ensemble.chain_index, minlength=len(ensemble.chain_ids))
            pairs = zip(ensemble.chain_ids, counts.tolist(), strict=True)
            there = ", ".join(f"{chain} ({count} residues)" for chain, count in pairs)
            what = f"chain {name!r} stands twice" if name in ensemble.chain_ids else (
                f"no chain {name!r}"
            )  # fmt: skip
            raise UserError(
                f"{ensemble.source}: {what}; chains must be 'longest', 'all', or one or more, "
                f"with commas between them, of {there}"
            )
    kept = torch.tensor([chain in wanted for chain in ensemble.chain_ids])
    return ensemble.select_residues(kept[ensemble.chain_index])


def _without(taken: Ensemble, whole: Ensemble, why: str) -> Ensemble:
    left = [chain for chain in whole.chain_ids if chain not in taken.chain_ids]
    if not left:
        return taken
    note = Note(CHAIN_LEFT_OUT, None, "", f"{listed(left)}: {why}")
    return replace(taken, report=ReadReport((*taken.report.notes, note)))


def check_length(ensemble: Ensemble) -> None:
    """Raise ValueError unless the number of residues is one the model takes."""
    if not MIN_RESIDUES <= ensemble.length <= MAX_RESIDUES:
        chains = ", ".join(ensemble.chain_ids)
        raise UserError(
            f"{ensemble.source}: {ensemble.length} residues in chain {chains}; the model takes "
            f"{MIN_RESIDUES} to {MAX_RESIDUES}: choose other chains"
        )


def check_complete(ensemble: Ensemble, models: Sequence[int]) -> None:
    """Raise ValueError if a residue lacks N, CA or C in one of the models at these positions."""
    for position in models:
        missing = (~ensemble.mask[position]).nonzero()[:, 0].tolist()
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{ensemble.source}: model {ensemble.model_numbers[position]}, residue "
                f"{ensemble.label(missing[0])}{others}: N, CA or C is missing; set incomplete: "
                "drop (in Python, Ensemble.select_residues) to leave such residues out"
            )


def model_position(ensemble: Ensemble, number: int, argument: str) -> int:
    """Position of the model that the file gives this number.

    Raises:
        ValueError: if there is none.
    """
    if number not in ensemble.model_numbers:
        numbers = ensemble.model_numbers
        shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
        raise UserError(
            f"{ensemble.source}: {argument} {number}: no such model; the file has {len(numbers)}: "
            f"{shown}"
        )
    return ensemble.model_numbers.index(number)


def prepare(ensemble: Ensemble, embedder: SequenceEmbedder | None) -> PreparedEnsemble:
    """Central model, core and sequence embedding, over all models."""
    rows = None
    if embedder is not None:
        chains = embedder.embed(chain_sequences(ensemble))
        rows = joined_embedding([torch.from_numpy(array) for array in chains], ensemble)
    return PreparedEnsemble.build(0, ensemble, range(ensemble.num_models), embedding=rows)


def check_embedder(
    network: ProteinCVAE, embedder: SequenceEmbedder | None, trained: str | None = None
) -> None:
    """Refuse another sequence embedder than that of the training.

    Args:
        network: trained.
        embedder: given.
        trained: identity of the embedder in training, where known.

    Raises:
        ValueError: saying what differs.
    """
    width = 0 if embedder is None else embedder.width
    wanted = network.d_embedding
    if width != wanted:
        has = "learned without a sequence embedder" if wanted == 0 else (
            f"trained with sequence embeddings of width {wanted}"
        )  # fmt: skip
        given = "none is given" if width == 0 else f"one of width {width} is given"
        raise UserError(f"embedder: the model was {has}, {given}; set embedder as in training")
    if embedder is not None and trained is not None and embedder.identity != trained:
        raise UserError(
            f"embedder: the model was trained with {trained[:12]}, given is "
            f"{embedder.identity[:12]}, of the same width but with other weights; set embedder as "
            "in training"
        )


def same_residues(first: Ensemble, second: Ensemble) -> Ensemble:
    """One model of each as one ensemble of two, with the chains and numbers of the first.

    Raises:
        ValueError: if one has several models, or residues that the other lacks.
    """
    for ensemble in (first, second):
        if ensemble.num_models != 1:
            raise UserError(
                f"{ensemble.source}: a path has one model at each end, got "
                f"{ensemble.num_models}; choose one with select_models"
            )
    first, second, _ = match_residues(first, second, drop=False)
    return replace(
        first,
        coordinates=torch.cat([first.coordinates, second.coordinates]),
        mask=torch.cat([first.mask, second.mask]),
        bonded=first.bonded & second.bonded,
        model_numbers=(1, 2),
        side_chains=join_models((first.side_chains, second.side_chains)),
    )
