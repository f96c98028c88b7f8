"""`lightning predict` that generates conformers: one input file to one output file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.request import TaskDataModule
from protein_cvae.generation.generate import (
    GenerateOptions,
    check_generation,
    comparison_core,
    generate_prepared,
    template_position,
)
from protein_cvae.generation.inputs import (
    ReadingOptions,
    prepare,
    read_input,
)
from protein_cvae.generation.outputs import (
    EnsembleResult,
    check_fits,
    checkpoint_provenance,
    describe,
    describe_atoms,
)
from protein_cvae.generation.spread import told_spread
from protein_cvae.io.formats import fasta
from protein_cvae.io.formats.table import structure_format
from protein_cvae.model.network import ProteinCVAE


@dataclass(frozen=True, eq=False)
class GenerateRequest:
    """One input, what to draw from it, and where to write it."""

    ensemble: Ensemble
    options: GenerateOptions
    path: Path
    embedder: SequenceEmbedder | None
    reading: ReadingOptions

    @property
    def inputs(self) -> tuple[Ensemble, ...]:
        return (self.ensemble,)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GenerateRequest:
        return self

    def run(self, network: ProteinCVAE, checkpoint: Path | None) -> EnsembleResult:
        """Generate and describe, beside the input's own models."""
        check_generation(self.ensemble, self.options)
        prepared = prepare(self.ensemble, self.embedder)
        provenance = checkpoint_provenance(checkpoint, self.embedder)
        made = generate_prepared(network, prepared, self.options)
        template = template_position(prepared, self.options)
        core = comparison_core(prepared, template, made.coordinates)
        given = self.ensemble
        summary: dict[str, Any] = {
            "task": "generate",
            **provenance,
            "input": {
                "name": given.name,
                "file": Path(given.source).name,
                "chains": self.reading.chains,
                "residues": given.length,
                "core_residues": int(core.sum()),
                "models": 0 if template is None else given.num_models,
                "template_model": None if template is None else given.model_numbers[template],
                "reading": given.report.to_list(),
            },
            "options": dataclasses.asdict(self.options),
            "atoms": describe_atoms(made),
            "generated": describe(made, core),
            "given": None if template is None else describe(given, core),
        }
        if self.options.spread is not None and made.num_models > 1:
            told = told_spread(given, self.options.spread, self.options.model)
            summary["told"] = told.reached(made.coordinates)
        return EnsembleResult(made, self.path, summary)


class GenerateDataModule(TaskDataModule):
    """One protein to generate conformers of; for ``lightning predict``.

    Args:
        input: PDB or mmCIF file, or folder with a topology and trajectories; for mode ``sequence``
            also a FASTA file (.fasta, .fa, .faa).  Null with ``sequence``.
        output: .pdb or .cif file to write; its name and ".json" takes the provenance.
        sequence: letters, instead of an input; mode ``sequence`` only.
        options: what to generate.
        reading: what is taken of the input.
        embedder: of sequences, as in training.
        overwrite: replace an existing output.

    Raises:
        ValueError: on an option out of range or options that exclude each other.
        FileExistsError: if the output exists.
    """

    def __init__(
        self,
        output: str,
        input: str | None = None,
        sequence: str | None = None,
        options: GenerateOptions = GenerateOptions(),
        reading: ReadingOptions = ReadingOptions(),
        embedder: SequenceEmbedder | None = None,
        overwrite: bool = False,
    ) -> None:
        self.options, self.reading = options, reading
        if (input is None) == (sequence is None):
            raise UserError("give either input or sequence" + (", not both" if input else ""))
        if sequence is not None and options.mode != "sequence":
            raise UserError(
                f"sequence: mode {options.mode} needs a structure as input; choose mode sequence "
                "(--mode sequence)"
            )
        structure_format(Path(output))  # refuses other suffixes
        super().__init__(output, () if input is None else (Path(input),), embedder, overwrite)
        self.input = None if input is None else Path(input)
        self.sequence = sequence

    def read(self) -> GenerateRequest:
        ensemble = self._ensemble()
        check_generation(ensemble, self.options)
        check_fits(self.output, ensemble, self.options.count)
        return GenerateRequest(ensemble, self.options, self.output, self.embedder, self.reading)

    def _ensemble(self) -> Ensemble:
        if self.input is None:
            assert self.sequence is not None
            return fasta.sequence_ensemble(self.sequence)
        if self.input.suffix.lower() in fasta.SUFFIXES and self.options.mode != "sequence":
            raise UserError(
                f"{self.input}: a FASTA file holds no structure, which mode "
                f"{self.options.mode} needs; choose mode sequence (--mode sequence)"
            )
        wanted = self.options.atoms != "backbone"
        return read_input(self.input, "input", self.reading, side_chains=wanted)
