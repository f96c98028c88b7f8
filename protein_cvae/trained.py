"""Read and write proteins, load a trained model, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import MissingFile, UserError
from common.files.checkpoint import read_checkpoint
from common.files.outputs import prepare_folder
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.in_memory import Given, InMemoryDataModule
from protein_cvae.data.record import DataRecord, data_record
from protein_cvae.data.reports import write_reading
from protein_cvae.data.settings import Incomplete, Sources, SplitSettings
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.run import evaluate as evaluate_cases
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import Row
from protein_cvae.generation.encode import EncodedLatents, encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import (
    ReadingOptions,
    check_embedder,
    read_input,
    taken,
)
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import write_bundle
from protein_cvae.io.download import PDB_PREFIX, download_structure
from protein_cvae.io.matching import match_residues
from protein_cvae.io.read import read_conformers
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings

_DOWNLOADS = "runs/pdb"


def read(
    path: str | Path | Sequence[str | Path],
    chains: str = "longest",
    incomplete: Incomplete = "refuse",
    max_frames: int | None = 100,
    topology: str | Path | None = None,
) -> Ensemble:
    """Read a structure file, a trajectory, a FASTA file or an entry of the PDB.

    What was dropped, masked, renamed or moved in reading is in the ensemble's ``report``.

    Args:
        path: .pdb, .cif (also .gz) or .fasta file; trajectory, or folder with a topology and
            trajectories; folder, glob pattern or list of files with one conformer each; or
            "pdb:2sdf", which is downloaded to runs/pdb once.
        chains: ``longest``, ``all`` as one object, or IDs: ``A`` or ``A,B``.
        incomplete: ``drop`` leaves out residues that some model lacks, or has without N, CA or C.
        max_frames: most frames of trajectories, evenly spaced; None for all.
        topology: of a trajectory file; None for the one beside it that fits.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is refused; names file, model and residue.

    Example:
        >>> import protein_cvae
        >>> ensemble = protein_cvae.read(folder / "simulated_0_0.pdb")
        >>> ensemble.name, ensemble.num_models, ensemble.length
        ('simulated_0_0', 6, 26)
    """
    options = ReadingOptions(
        chains, incomplete, max_frames, None if topology is None else str(topology)
    )
    if not isinstance(path, str | Path):
        drop = incomplete == "drop"
        return taken(read_conformers(path, drop=drop, side_chains=True), options)
    text = str(path)
    if text.startswith(PDB_PREFIX):
        path = download_structure(text.removeprefix(PDB_PREFIX), _DOWNLOADS)
    return read_input(path, "path", options, side_chains=True)


def write(path: str | Path, ensemble: Ensemble) -> Path:
    """Write all models with carbonyl oxygens, and the RMSF in Å in the B-factor column.

    Side chains are written where the ensemble has them; then the last residue of a chain has OXT.

    Args:
        path: .pdb or .cif, with .gz to compress; replaced where it exists.
        ensemble: its models are superposed on each other, as generated ones are.

    Raises:
        ValueError: on another suffix, or what does not fit the columns of PDB.

    Example:
        >>> import protein_cvae
        >>> ensemble = protein_cvae.read(folder / "simulated_0_0.pdb")
        >>> protein_cvae.write(folder / "copy.cif", ensemble).name
        'copy.cif'
    """
    return write_bundle(Path(path), ensemble)


@dataclass(frozen=True, eq=False)
class ProteinModel:
    """A trained model, ready for use.  Nothing that is passed in is changed.

    Attributes:
        network: in eval mode.
        record: what it was trained on; None if the checkpoint does not say.
        embedder: of sequences, as in training; None without one.
        checkpoint: the file it comes from.

    Example:
        >>> new = model.generate(folder / "simulated_0_0.pdb", 3)
        >>> new.num_models
        3
    """

    network: ProteinCVAE
    record: DataRecord | None
    embedder: SequenceEmbedder | None
    checkpoint: Path

    @property
    def settings(self) -> NetworkSettings:
        """Sizes of the network."""
        return self.network.settings

    def generate(
        self, given: Given, options: GenerateOptions | int = GenerateOptions()
    ) -> Ensemble:
        """New conformers of a protein.

        Args:
            given: an ensemble, or a path for :func:`read`.
            options: what to generate; a number means so many conformers.

        Returns:
            The conformers, superposed on their mean by the ordered core.

        Example:
            >>> from protein_cvae import GenerateOptions
            >>> given = protein_cvae.read(folder / "simulated_0_0.pdb")
            >>> model.generate(given, GenerateOptions(mode="prior", count=2)).num_models
            2
        """
        if isinstance(options, int):
            options = GenerateOptions(count=options)
        return generate(self.network, _ensemble(given), options, self.embedder)

    def interpolate(
        self,
        first: Given,
        second: Given,
        options: InterpolateOptions | int = InterpolateOptions(),
        incomplete: Incomplete = "refuse",
    ) -> Ensemble:
        """A path of conformers between two models of one protein.

        Args:
            first: an ensemble or a path; its first model is one end.
            second: its last model is the other end.
            options: how to go; a number means so many steps.
            incomplete: ``drop`` leaves out residues that only one end has.

        Example:
            >>> ensemble = protein_cvae.read(folder / "simulated_0_0.pdb")
            >>> model.interpolate(ensemble, ensemble, 4).num_models
            4
        """
        if isinstance(options, int):
            options = InterpolateOptions(steps=options)
        start, end = _ensemble(first), _ensemble(second)
        one, two = start.select_models([0]), end.select_models([end.num_models - 1])
        ends = match_residues(one, two, incomplete == "drop")[:2]
        return interpolate(self.network, *ends, options, self.embedder)

    def encode(self, given: Given, template: int | None = None) -> EncodedLatents:
        """The latents of every model of an ensemble.

        Args:
            given: an ensemble, or a path for :func:`read`.
            template: number of the model that latents are relative to; None for the central one.

        Example:
            >>> model.encode(folder / "simulated_0_0.pdb").z_global.shape
            (6, 8)
        """
        return encode_models(self.network, _ensemble(given), template, self.embedder)

    def evaluate(
        self,
        ensembles: Given | Sequence[Given],
        out: str | Path = "runs/protein_evaluation",
        settings: EvaluationSettings = EvaluationSettings(),
        split: SplitSettings | None = None,
        sources: Sources = Sources(),
    ) -> list[Row]:
        """Score the model on held-out models, as ``lightning test`` does.

        Args:
            ensembles: objects, files, folders or patterns, as in training.
            out: folder of evaluation.md, lines of JSON and figures.
            settings: of the evaluation; its ``output`` is not used.
            split: as in training; None takes that of the checkpoint.
            sources: what is taken of files, as in training.

        Returns:
            The rows of evaluation.jsonl.

        Raises:
            ValueError: if it would score what was learned from, or the checkpoint does not say; if
                some model lacks residues and ``sources.incomplete`` does not say to drop them.

        Example:
            >>> quick = protein_cvae.EvaluationSettings(count=2, figures=0)
            >>> rows = model.evaluate(ensembles, folder / "evaluation", quick)  # doctest: +ELLIPSIS
            # Evaluation
            ...
            >>> sorted({row["protein"] for row in rows})
            ['simulated_0_0', 'simulated_0_1', 'simulated_0_2']
        """
        split = self._split() if split is None else split
        data = InMemoryDataModule(ensembles, sources, split, embedder=self.embedder)
        data.setup("test")
        data.check_record(self.record, resume=False)
        cases = data.cases
        prepare_folder(Path(out), "out")
        write_reading(Path(out) / "reading.json", data.ensembles)
        return evaluate_cases(self.network, cases, settings, Path(out))

    def _split(self) -> SplitSettings:
        if self.record is None:
            return SplitSettings()
        trained = EnsembleSplit.from_dict(self.record["split"])
        out = tuple(entry.name for entry in trained.entries if entry.unseen)
        return SplitSettings(
            out, trained.families, trained.held_out_fraction, trained.seed, trained.blocks
        )


def load(
    path: str | Path, embedder: SequenceEmbedder | None = None, device: str = "cpu"
) -> ProteinModel:
    """Load a trained model from a checkpoint; no code in the file is run.

    Args:
        path: what a fit exported, or one of its checkpoints.
        embedder: of sequences, as in training.
        device: to compute on, e.g. "cuda".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of this model, or of another embedder.

    Example:
        >>> import protein_cvae
        >>> protein_cvae.load(model.checkpoint).settings.d_global
        8
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"no such checkpoint: {path}")
    content = read_checkpoint(path)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint that a fit wrote: it has no state_dict")
    settings = NetworkSettings.from_hyperparameters(content.get("hyper_parameters", {}), str(path))
    with torch.random.fork_rng(devices=[]):  # initial weights, which are replaced
        network = ProteinCVAE(settings)
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path} does not hold the weights of this network: {first}") from error
    record = data_record(content)
    check_embedder(network, embedder, None if record is None else record["embedder"])
    return ProteinModel(network.to(device).eval(), record, embedder, path)


def _ensemble(given: Given) -> Ensemble:
    return given if isinstance(given, Ensemble) else read(given)
