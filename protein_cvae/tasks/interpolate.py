"""A path of conformers from one model to another of the same residues.

With z_a, z_b the posterior means of both ends against one template, a step at t in [0, 1] decodes
(1 − t) z_a + t z_b.  With ``templates = both`` this is done against either end as template, the
second result superposed on the first by CA, and the step is (1 − t) x_first + t x_second: each end
is then decoded from itself, and the path read backwards is the path between exchanged ends.  Cis
peptide bonds are those of the nearer end.  Every step is finished, so that its geometry is valid;
the path is neither a minimum-energy path nor a trajectory.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from protein_cvae import sampling
from protein_cvae.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.finishing import geometry_finisher, template_cis
from protein_cvae.geometry.constants import CA
from protein_cvae.io.structure import structure_format
from protein_cvae.module import ProteinCVAEModule
from protein_cvae.prepare import PreparedEnsemble
from protein_cvae.tasks.encode import posterior_means
from protein_cvae.tasks.inputs import (
    Incomplete,
    check_complete,
    check_length,
    model_position,
    prepare,
    read_input,
    same_residues,
)
from protein_cvae.tasks.outputs import (
    EnsembleResult,
    bundle,
    check_fits,
    describe,
    evaluating,
    provenance,
)
from protein_cvae.tasks.request import TaskDataModule, check_embedder

Templates = Literal["both", "first"]
_CHUNK = 16


@dataclass(frozen=True)
class InterpolateOptions:
    """How to interpolate.

    Attributes:
        steps: conformers, both ends included.
        templates: ``both`` ends, or the ``first`` alone, which is twice as fast.
        finish: make the geometry valid; False gives the decoder's own output.

    Raises:
        ValueError: on fewer than two steps or another word.
    """

    steps: int = 20
    templates: Templates = "both"
    finish: bool = True

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, both ends, got {self.steps}")
        if self.templates not in ("both", "first"):
            raise ValueError(f"templates must be 'both' or 'first', got {self.templates!r}")


def check_ends(first: Ensemble, second: Ensemble) -> Ensemble:
    """Both ends as an ensemble of two models.

    Args:
        first, second: one model each.

    Raises:
        ValueError: if they do not have the same residues, all of them complete; names file, model
            and residue.
    """
    joined = same_residues(first, second)
    check_length(joined)
    check_complete(first, [0])
    check_complete(second, [0])
    return joined


def interpolate(
    module: ProteinCVAEModule,
    first: Ensemble,
    second: Ensemble,
    options: InterpolateOptions | None = None,
    embedder: SequenceEmbedder | None = None,
) -> Ensemble:
    """The path from one model to another.

    Args:
        module: trained.
        first, second: one model each, of the same sequence.
        options: None for the defaults.
        embedder: as in training.

    Returns:
        ``steps`` conformers with the residues of ``first``, numbered from 1, superposed on their
        mean by the residues whose torsions agree at both ends.

    Raises:
        ValueError: see :func:`check_ends` and :func:`~protein_cvae.tasks.request.check_embedder`.
    """
    options = options or InterpolateOptions()
    joined = check_ends(first, second)
    check_embedder(module, embedder)
    return _interpolate(module, prepare(joined, embedder), options, second.source)


def _interpolate(
    module: ProteinCVAEModule,
    prepared: PreparedEnsemble,
    options: InterpolateOptions,
    second_source: str,
) -> Ensemble:
    base, steps = prepared.ensemble, options.steps
    with evaluating(module):
        x = _decoded(module, prepared, 0, steps)
        t = torch.linspace(0, 1, steps).to(x)
        if options.templates == "both":
            other = _decoded(module, prepared, 1, steps)
            fit = align(other[:, :, CA], x[:, :, CA])
            other = fit.apply(other.flatten(1, 2)).view(x.shape)
            weight = t[:, None, None, None]
            x = (1 - weight) * x + weight * other
        if options.finish:
            x = _finished(prepared, x, t)
    source = f"path from {base.source} to {second_source}"
    onto = base.coordinates[0]
    return bundle(base, x, prepared.core, onto, f"{base.name}_path", source)


def _decoded(
    module: ProteinCVAEModule, prepared: PreparedEnsemble, template: int, steps: int
) -> Tensor:
    """(steps, L, 3, 3): the straight path between the latents of both ends."""
    first, second = (posterior_means(module, prepared, [end], template) for end in (0, 1))
    batch = prepared.item(template, template).to(module.device)
    path = sampling.interpolate(first, second, steps)
    return sampling.decode(module, batch, path, None, _CHUNK)


def _finished(prepared: PreparedEnsemble, x: Tensor, t: Tensor) -> Tensor:
    ends = [prepared.item(i, i).to(x.device) for i in (0, 1)]
    cis = torch.where(t[:, None] < 0.5, template_cis(ends[0]), template_cis(ends[1]))
    parts = []
    for part, bonds in zip(x.split(_CHUNK), cis.split(_CHUNK), strict=True):
        items = sampling.repeat_item(ends[0], len(part))
        parts.append(geometry_finisher(bonds)(part, items, items.mask))
    return torch.cat(parts)


def path_report(path: Ensemble, ends: Ensemble) -> dict[str, Any]:
    """CA-RMSDs in Å, all residues: of the path's ends to the models, of each step, and direct."""
    x, given = path.coordinates[:, :, CA].double(), ends.coordinates[:, :, CA].double()
    steps = aligned_rmsd(x[1:], x[:-1])
    return {
        "ends_to_models_ca_rmsd": aligned_rmsd(x[[0, -1]], given).tolist(),
        "step_ca_rmsd": steps.tolist(),
        "length_ca_rmsd": float(steps.sum()),
        "direct_ca_rmsd": float(aligned_rmsd(given[0], given[1])),
    }


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
        made = _interpolate(module, prepared, self.options, self.second.source)
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
            raise ValueError(
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
