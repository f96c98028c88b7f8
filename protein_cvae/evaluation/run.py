"""A whole evaluation: cases in, tables, lines of JSON and figures out.

Written to the folder: ``evaluation.md``, ``evaluation.jsonl`` and, for some proteins of each group,
``figures/<protein>_{traces,rmsf,ramachandran,distances,effects}.png`` and lines of
``latent_effects.jsonl``, what each latent moves; ``figures/latents.png`` for all.  ``reading.json``
says what was dropped, masked or renamed when the files were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from common.files.atomic import atomic_path
from common.files.outputs import prepare_folder
from common.report.figures import save_figure
from common.report.machine import processor
from common.report.tables import to_json_lines
from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.reports import write_reading
from protein_cvae.ensemble import listed
from protein_cvae.evaluation.latent_effects import (
    EffectOptions,
    LatentEffects,
    effect_rows,
    latent_effects,
)
from protein_cvae.evaluation.plots.effects import effects_figure
from protein_cvae.evaluation.plots.ensembles import (
    distance_figure,
    latent_figure,
    ramachandran_figure,
)
from protein_cvae.evaluation.plots.traces import Residues, rmsf_figure, traces_figure
from protein_cvae.evaluation.score_protein import MODES, case_key, evaluate_case
from protein_cvae.evaluation.scores import CaseResult, pooled_active_units
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import (
    METHODS,
    Row,
    case_rows,
    effect_row,
    effect_table,
    report,
)
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.constants import CA
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import Finisher, evaluating, posterior_means

FigureSink = Callable[[str, Figure], None]


class EvaluationRun:
    """Takes cases one after the other and writes the report; each rank takes its own cases.

    Args:
        network: trained.
        settings: of the evaluation.
        output: folder, made if absent; files in it are replaced.
        finish: makes the geometry valid; None judges the decoder's own output.
        show: also takes every figure with its name, e.g. for TensorBoard.

    Raises:
        ValueError: if ``output`` is a file, or cannot be made or written to.
    """

    def __init__(
        self,
        network: ProteinCVAE,
        settings: EvaluationSettings,
        output: Path,
        finish: Finisher | None,
        show: FigureSink | None = None,
    ) -> None:
        self.network, self.settings, self.output = network, settings, output
        self.finish, self.show = finish, show
        self.results: list[CaseResult] = []
        self.effects: list[Row] = []
        for folder in (output, output / "figures"):
            prepare_folder(folder, "evaluation.output")

    def add(self, case: EvaluationCase) -> CaseResult:
        """Evaluate one protein."""
        result, conformers = evaluate_case(self.network, case, self.settings, self.finish)
        drawn = sum(r.group == result.group for r in self.results)
        self.results.append(result)
        if drawn < self.settings.figures:
            for kind, figure in case_figures(case, conformers).items():
                self._draw(f"{case.name}_{kind}", figure)
            effects = case_effects(self.network, case, self.settings)
            self.effects += [effect_row(case.head, row) for row in effect_rows(effects)]
            self._draw(f"{case.name}_effects", effects_figure(case.name, effects))
        return result

    def close(self) -> list[Row]:
        """Gather all ranks' results, write the files and return the rows; every rank calls this."""
        results, effects = _gathered(self.results), _gathered_rows(self.effects)
        rows = [row for result in results for row in case_rows(result)]
        if dist.is_initialized() and dist.get_rank() != 0:
            return rows
        text = report(rows, self._notes(results))
        written = {"evaluation.jsonl": to_json_lines(rows, escape=True)}
        if effects:
            text = f"{text.rstrip()}\n\n{effect_table(effects)}\n"
            written["latent_effects.jsonl"] = to_json_lines(effects, escape=True)
        written["evaluation.md"] = text
        for name, content in written.items():
            with atomic_path(self.output / name) as partial:
                partial.write_text(content, encoding="utf-8")
        if self.settings.figures and results:
            maps = {result.name: result.latents.map for result in results}
            self._draw("latents", latent_figure(maps, results[0].latents.d_global))
        print(text)
        return rows

    def _notes(self, results: list[CaseResult]) -> list[str]:
        settings = self.settings
        notes = [
            f"{settings.count} conformers per protein and mode, bandwidth {settings.bandwidth}, "
            f"temperature {settings.temperature}, seed {settings.seed}; "
            f"{'finished geometry' if self.finish else 'decoder output without finishing'}; "
            f"{self.network.device.type}, {processor()}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}."
        ]
        if results:
            active_global, active_local = pooled_active_units(results)
            latents = results[0].latents
            notes.append(
                f"Active units over all models of all proteins: {active_global} of "
                f"{latents.d_global} (z_global), {active_local} of {latents.d_local} (z_local)."
            )
        for result in results:
            if left_out := result.head["left_out"]:
                notes.append(f"{result.name}: not scored, as not all models have them, are "
                             f"{listed(left_out)}.")  # fmt: skip
        return notes

    def _draw(self, name: str, figure: Figure) -> None:
        save_figure(figure, self.output / "figures" / f"{name.replace('/', '_')}.png", dpi=110)
        if self.show is not None:
            self.show(name, figure)


def evaluate(
    network: ProteinCVAE,
    cases: Iterable[EvaluationCase],
    settings: EvaluationSettings,
    output: Path,
    finish: Finisher | None = None,
) -> list[Row]:
    """Evaluate a model on proteins, as ``lightning test`` does; prints and writes the report.

    Args:
        network: trained.
        cases: proteins.
        settings: of the evaluation; its ``output`` is not used.
        output: folder of the results.
        finish: None for :func:`~protein_cvae.generation.finisher.geometry_finisher`.

    Returns:
        The rows of evaluation.jsonl.
    """
    run = EvaluationRun(network, settings, output, finish or geometry_finisher())
    for case in cases:
        run.add(case)
    return run.close()


def start_evaluation(
    network: ProteinCVAE, settings: EvaluationSettings, trainer: pl.Trainer
) -> EvaluationRun:
    """The run of ``lightning test``: figures go to TensorBoard too; called on every rank."""
    if trainer.ckpt_path is None:
        rank_zero_warn("no --ckpt_path is given: the model has the weights it was built with")
    log_dir = trainer.log_dir  # a broadcast: every rank has to read it
    if settings.output is not None:
        folder = Path(settings.output)
    else:
        folder = Path(log_dir or trainer.default_root_dir) / "evaluation"

    def show(name: str, figure: Figure) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"evaluation/{name}", figure, close=False)

    run = EvaluationRun(network, settings, folder, geometry_finisher(), show)
    data = getattr(trainer, "datamodule", None)
    if trainer.is_global_zero and isinstance(data, EnsembleDataModule):
        write_reading(folder / "reading.json", data.ensembles)
    return run


def case_figures(case: EvaluationCase, conformers: dict[str, Tensor]) -> dict[str, Figure]:
    """The four figures of one protein; ``conformers`` (K, L, 3, 3) by method."""
    ensemble, core = case.prepared.ensemble, case.core
    titled = {METHODS.get(method, method): x for method, x in conformers.items()}
    ca = {title: x[:, :, CA] for title, x in titled.items()}
    residues = Residues.of(ensemble.residue_numbers, ensemble.bonded, core)
    return {
        "traces": traces_figure(case.name, ca, residues),
        "rmsf": rmsf_figure(case.name, ca, residues),
        "ramachandran": ramachandran_figure(case.name, titled, ensemble.bonded, ensemble.aatype),
        "distances": distance_figure(case.name, ca),
    }


def case_effects(
    network: ProteinCVAE, case: EvaluationCase, settings: EvaluationSettings
) -> LatentEffects:
    """What each latent of the central given model moves; the draws are those of this protein."""
    central = case.prepared.central
    options = EffectOptions(chunk=settings.chunk)
    with evaluating(network):
        means = posterior_means(network, case.prepared, case.given, central)
    # Modes of generation have the numbers before it.
    generator = generator_for(settings.seed, case_key(case.name), len(MODES))
    return latent_effects(network, case.item().to(network.device), means, generator, options)


def _gathered_rows(rows: list[Row]) -> list[Row]:
    """Those of all ranks, known proteins first, by name; a protein that filled up a rank once."""
    parts: list[list[Row] | None] = [rows]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, rows)
    names = ("group", "protein", "latent", "unit", "size")
    found = {tuple(row[n] for n in names): row for part in parts for row in part or []}
    return sorted(found.values(), key=lambda row: (row["group"], row["protein"]))


def _gathered(results: list[CaseResult]) -> list[CaseResult]:
    """Those of all ranks, known proteins first, by name; a case that filled up a rank once."""
    parts: list[list[CaseResult] | None] = [results]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, results)
    by_name = {result.name: result for part in parts for result in part or []}
    return sorted(by_name.values(), key=lambda result: (result.group, result.name))
