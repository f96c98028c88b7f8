"""`lightning predict` for :mod:`protein_cvae.generation.interpolate`: two models to one path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from common.errors import UserError
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.request import TaskDataModule
from protein_cvae.generation.inputs import (
    ReadingOptions,
    model_position,
    prepare,
    read_chains,
)
from protein_cvae.generation.interpolate import (
    InterpolateOptions,
    check_ends,
    interpolate_prepared,
    path_report,
)
from protein_cvae.generation.outputs import (
    EnsembleResult,
    check_fits,
    checkpoint_provenance,
    describe,
    describe_atoms,
)
from protein_cvae.generation.side_chains import LEFT_OUT, check_atoms
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.matching import kept_where, match_residues
from protein_cvae.model.network import ProteinCVAE


@dataclass(frozen=True, eq=False)
class PathResult(EnsembleResult):
    """A path to write."""

    def message(self) -> str:
        path = self.summary["path"]
        start, end = path["ends_to_models_ca_rmsd"]
        inside = 100 * self.summary["generated"]["validity"]["inside"]
        left_out = "".join(f"; {note}" for note in self.ensemble.report.of_kind(LEFT_OUT))
        return (
            f"{len(path['step_ca_rmsd']) + 1} steps over {path['direct_ca_rmsd']:.2f} Å CA-RMSD; "
            f"largest step {max(path['step_ca_rmsd']):.2f} Å; ends {start:.2f} and {end:.2f} Å "
            f"from the models; {inside:.2f} % of residues inside geometric tolerance" + left_out
        )


@dataclass(frozen=True, eq=False)
class InterpolateRequest:
    """Two models, how to go from one to the other, and where to write the path."""

    first: Ensemble
    second: Ensemble
    numbers: tuple[int, int]
    options: InterpolateOptions
    path: Path
    embedder: SequenceEmbedder | None
    reading: ReadingOptions
    left_out: str = ""

    @property
    def inputs(self) -> tuple[Ensemble, ...]:
        return (self.first, self.second)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InterpolateRequest:
        return self

    def run(self, network: ProteinCVAE, checkpoint: Path | None) -> PathResult:
        ends = check_ends(self.first, self.second)
        prepared = prepare(ends, self.embedder)
        provenance = checkpoint_provenance(checkpoint, self.embedder)
        made = interpolate_prepared(network, prepared, self.options, self.second.source)
        summary = {
            "task": "interpolate",
            **provenance,
            "input": {
                "name": self.first.name,
                "files": [Path(e.source).name for e in (self.first, self.second)],
                "models": list(self.numbers),
                "chains": self.reading.chains,
                "residues": ends.length,
                "core_residues": int(prepared.core.sum()),
                "left_out": self.left_out,
                "reading": [e.report.to_list() for e in self.inputs],
            },
            "options": dataclasses.asdict(self.options),
            "atoms": describe_atoms(made),
            "path": path_report(made, ends),
            "generated": describe(made, prepared.core),
            "given": describe(ends, prepared.core),
        }
        return PathResult(made, self.path, summary)


@dataclass(frozen=True)
class PathEnds:
    """The models at both ends.

    Attributes:
        second: file of the second end; None for the same file.
        first_model: number of the model at the first end; None for the first of its file.
        second_model: number of the model at the second end; None for the last of its file.
    """

    second: str | None = None
    first_model: int | None = None
    second_model: int | None = None


class InterpolateDataModule(TaskDataModule):
    """Two models to go between; for ``lightning predict``.

    Args:
        input: PDB or mmCIF file, or folder with a topology and trajectories, of the first end.
        output: .pdb or .cif file to write; its name and ".json" takes the provenance.
        ends: which models.
        options: how to go.
        reading: what is taken of both files; ``incomplete: drop`` leaves out residues that only
            one end has, by number or sequence alignment, or that lack N, CA or C at either end.
        embedder: of sequences, as in training.
        overwrite: replace an existing output.

    Raises:
        ValueError: on an option out of range or another suffix of the output.
        FileExistsError: if the output exists.
    """

    def __init__(
        self,
        input: str,
        output: str,
        ends: PathEnds = PathEnds(),
        options: InterpolateOptions = InterpolateOptions(),
        reading: ReadingOptions = ReadingOptions(),
        embedder: SequenceEmbedder | None = None,
        overwrite: bool = False,
    ) -> None:
        self.ends, self.options, self.reading = ends, options, reading
        structure_format(Path(output))  # refuses other suffixes
        self.input = Path(input)
        self.second = self.input if ends.second is None else Path(ends.second)
        super().__init__(output, (self.input, self.second), embedder, overwrite)

    def read(self) -> InterpolateRequest:
        # What is incomplete is known when both ends are.
        wanted = self.options.atoms != "backbone"
        start = read_chains(self.input, "input", self.reading, wanted)
        end = start
        if self.second != self.input:
            end = read_chains(self.second, "second", self.reading, wanted)
        first, a = self._end(start, self.ends.first_model, "first_model", 0)
        second, b = self._end(end, self.ends.second_model, "second_model", -1)
        if start is end and a == b:
            raise UserError(
                f"{self.input}: both ends are model {a}; a path needs two models: set first_model, "
                "second_model or second"
            )
        drop = self.reading.incomplete == "drop"
        first, second, left_out = match_residues(first, second, drop)
        if drop:
            both = first.mask[0] & second.mask[0]
            first, left_out = kept_where(first, both, left_out)
            second, _ = kept_where(second, both, "")
        if left_out:
            rank_zero_info(f"residues left out of the path: {left_out}")
        ends = check_ends(first, second)
        check_atoms(ends, ends, self.options.atoms)
        check_fits(self.output, ends, self.options.steps)
        return InterpolateRequest(
            first, second, (a, b), self.options, self.output, self.embedder, self.reading, left_out
        )

    @staticmethod
    def _end(
        ensemble: Ensemble, number: int | None, argument: str, default: int
    ) -> tuple[Ensemble, int]:
        """One model, and its number."""
        if number is None:
            number = ensemble.model_numbers[default]
        position = model_position(ensemble, number, argument)
        return ensemble.select_models([position]), number
