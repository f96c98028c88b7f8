"""`lightning predict` for :mod:`protein_cvae.generation.interpolate`: two models to one path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.request import TaskDataModule
from protein_cvae.generation.inputs import (
    Incomplete,
    model_position,
    prepare,
    read_input,
)
from protein_cvae.generation.interpolate import (
    InterpolateOptions,
    Templates,
    check_ends,
    interpolate_prepared,
    path_report,
)
from protein_cvae.generation.outputs import (
    EnsembleResult,
    check_fits,
    describe,
    provenance,
)
from protein_cvae.io.read import structure_format
from protein_cvae.module import ProteinCVAEModule


@dataclass(frozen=True, eq=False)
class PathResult(EnsembleResult):
    """A path to write."""

    def message(self) -> str:
        path = self.summary["path"]
        start, end = path["ends_to_models_ca_rmsd"]
        inside = 100 * self.summary["generated"]["validity"]["inside"]
        return (
            f"{len(path['step_ca_rmsd']) + 1} steps over {path['direct_ca_rmsd']:.2f} Å CA-RMSD; "
            f"largest step {max(path['step_ca_rmsd']):.2f} Å; ends {start:.2f} and {end:.2f} Å "
            f"from the models; {inside:.2f} % of residues inside geometric tolerance"
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
    chains: str

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InterpolateRequest:
        return self

    def run(self, module: ProteinCVAEModule) -> PathResult:
        ends = check_ends(self.first, self.second)
        prepared = prepare(ends, self.embedder)
        made = interpolate_prepared(module, prepared, self.options, self.second.source)
        summary = {
            "task": "interpolate",
            **provenance(module, None if self.embedder is None else self.embedder.identity),
            "input": {
                "name": self.first.name,
                "files": [Path(e.source).name for e in (self.first, self.second)],
                "models": list(self.numbers),
                "chains": self.chains,
                "residues": ends.length,
                "core_residues": int(prepared.core.sum()),
            },
            "options": dataclasses.asdict(self.options),
            "path": path_report(made, ends),
            "generated": describe(made, prepared.core),
            "given": describe(ends, prepared.core),
        }
        return PathResult(made, self.path, summary)


class InterpolateDataModule(TaskDataModule):
    """Two models to go between; for ``lightning predict``.

    Args:
        input: PDB or mmCIF file, or folder with a topology and trajectories, of the first end.
        output: .pdb or .cif file to write; its name and ".json" takes the provenance.
        second: file of the second end; null for the same file.
        first_model: number of the model at the first end; null for the first of its file.
        second_model: number of the model at the second end; null for the last of its file.
        steps, templates, finish: see :class:`InterpolateOptions`.
        chains: ``longest``, ``all`` or a chain ID, in both files.
        incomplete: ``drop`` leaves out residues that lack N, CA or C at either end, where both
            files have the same residues otherwise.
        max_frames: most frames of a trajectory folder, evenly spaced; null for all.
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
        second: str | None = None,
        first_model: int | None = None,
        second_model: int | None = None,
        steps: int = 20,
        templates: Templates = "both",
        finish: bool = True,
        chains: str = "longest",
        incomplete: Incomplete = "refuse",
        max_frames: int | None = 100,
        embedder: SequenceEmbedder | None = None,
        overwrite: bool = False,
    ) -> None:
        self.options = InterpolateOptions(steps, templates, finish)
        structure_format(Path(output))  # refuses other suffixes
        self.input = Path(input)
        self.second = self.input if second is None else Path(second)
        super().__init__(output, (self.input, self.second), embedder, overwrite)
        self.first_model, self.second_model = first_model, second_model
        self.chains, self.max_frames = chains, max_frames
        self.incomplete: Incomplete = incomplete

    def read(self) -> InterpolateRequest:
        start = read_input(self.input, "input", self.chains, self.max_frames)
        end = start
        if self.second != self.input:
            end = read_input(self.second, "second", self.chains, self.max_frames)
        first, a = self._end(start, self.first_model, "first_model", 0)
        second, b = self._end(end, self.second_model, "second_model", -1)
        if start is end and a == b:
            raise UserError(
                f"{self.input}: both ends are model {a}; a path needs two models: set first_model, "
                "second_model or second"
            )
        if self.incomplete == "drop" and first.sequence == second.sequence:
            whole = first.mask[0] & second.mask[0]
            if bool(whole.any()):
                first, second = first.select_residues(whole), second.select_residues(whole)
        check_fits(self.output, check_ends(first, second), self.options.steps)
        return InterpolateRequest(
            first, second, (a, b), self.options, self.output, self.embedder, self.chains
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
