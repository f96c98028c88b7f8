"""A whole evaluation: cases in, tables, lines of JSON and figures out.

Written to the folder: ``evaluation.md``, ``evaluation.jsonl`` and, for some proteins of each group,
``figures/<protein>_{traces,rmsf,ramachandran,distances,effects}.png`` and lines of
``latent_effects.jsonl``, what each latent moves; ``figures/latents.png`` for all.
``physicality.json`` has counts per conformer, ``reading.json`` says what was dropped, masked or
renamed when the files were read.

What is found of a protein is kept at once (:mod:`protein_cvae.evaluation.progress`) and read by the
next run of the same model, data and settings, until a run ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from matplotlib.figure import Figure

from common.files.atomic import atomic_path
from common.files.outputs import prepare_folder
from common.report.figures import save_figure
from common.report.machine import processor
from common.report.tables import to_json, to_json_lines
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.reports import write_reading
from protein_cvae.ensemble import listed
from protein_cvae.evaluation.drawing import case_effects, case_figures
from protein_cvae.evaluation.latent_effects import effect_rows
from protein_cvae.evaluation.plots.effects import effects_figure
from protein_cvae.evaluation.plots.ensembles import latent_figure
from protein_cvae.evaluation.progress import Progress, Record, active_units, latent_entries
from protein_cvae.evaluation.score_protein import evaluate_case
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import (
    Row,
    case_rows,
    effect_row,
    effect_table,
    report,
)
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import Finisher

FigureSink = Callable[[str, Figure], None]
Found = TypeVar("Found")
PROGRESS = "progress"


class EvaluationRun:
    """Takes cases one after the other and writes the report; each rank takes its own cases.

    Args:
        network: trained.
        settings: of the evaluation.
        output: folder, made if absent; files in it are replaced.
        finish: makes the geometry valid; None judges the decoder's own output.
        show: also takes every figure that is drawn with its name, e.g. for TensorBoard.
        progress: what was found before, and where to keep what is found; None keeps nothing.

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
        progress: Progress | None = None,
    ) -> None:
        self.network, self.settings, self.output = network, settings, output
        self.finish, self.show, self.progress = finish, show, progress
        self.records: list[Record] = []
        self._kept: list[Path] = []
        for folder in (output, output / "figures"):
            prepare_folder(folder, "evaluation.output")

    def add(self, case: EvaluationCase) -> Record:
        """Evaluate one protein, or take what an interrupted run has found of it."""
        drawn = sum(record.group == case.group for record in self.records)
        with_figures = drawn < self.settings.figures
        record = self._found(case, with_figures)
        if record is None:
            record = self._evaluated(case, with_figures)
            if self.progress is not None:
                self.progress.write(case, record)
        if self.progress is not None:
            self._kept.append(self.progress.path(case))
        self.records.append(record)
        return record

    def _found(self, case: EvaluationCase, with_figures: bool) -> Record | None:
        """What an interrupted run has found, with its figures; None if any of it is missing."""
        record = None if self.progress is None else self.progress.read(case)
        if record is None or (with_figures and not record.figures):
            return None
        for name in record.figures:
            source, target = Path(record.folder) / name, self.output / "figures" / name
            if not source.is_file():
                return None
            if source.resolve() != target.resolve():
                with atomic_path(target) as partial:
                    shutil.copyfile(source, partial)
        return record

    def _evaluated(self, case: EvaluationCase, with_figures: bool) -> Record:
        result, conformers = evaluate_case(self.network, case, self.settings, self.finish)
        figures, rows = [], []
        if with_figures:
            for kind, figure in case_figures(case, conformers).items():
                figures.append(self._draw(f"{case.name}_{kind}", figure))
            effects = case_effects(self.network, case, self.settings)
            rows = [effect_row(case.head, row) for row in effect_rows(effects)]
            figures.append(self._draw(f"{case.name}_effects", effects_figure(case.name, effects)))
        return Record(
            name=case.name,
            group=case.group,
            left_out=list(case.left_out),
            rows=case_rows(result),
            effects=rows,
            physicality={name: made.physicality for name, made in result.conformers.items()},
            figures=figures,
            folder=str((self.output / "figures").resolve()),
            processor=processor(),
            **latent_entries(result.latents),
        )

    def close(self) -> list[Row]:
        """Gather all ranks' results, write the files and return the rows; every rank calls this.

        Rank zero then removes what was kept against an interruption.
        """
        # Known proteins first, by name; one that filled up a rank stands once.
        found = {(record.group, record.name): record for record in _of_all_ranks(self.records)}
        records = [record for _, record in sorted(found.items(), key=lambda item: item[0])]
        kept = _of_all_ranks(self._kept)
        rows = [row for record in records for row in record.rows]
        if dist.is_initialized() and dist.get_rank() != 0:
            return rows
        effects = [row for record in records for row in record.effects]
        text = report(rows, self._notes(records))
        written = {
            "evaluation.jsonl": to_json_lines(rows, escape=True),
            "physicality.json": to_json(
                {record.name: record.physicality for record in records}, indent=None, escape=True
            ),
        }
        if effects:
            text = f"{text.rstrip()}\n\n{effect_table(effects)}\n"
            written["latent_effects.jsonl"] = to_json_lines(effects, escape=True)
        written["evaluation.md"] = text
        for name, content in written.items():
            with atomic_path(self.output / name) as partial:
                partial.write_text(content, encoding="utf-8")
        if self.settings.figures and records:
            maps = {record.name: torch.tensor(record.map) for record in records}
            self._draw("latents", latent_figure(maps, records[0].d_global))
        if self.progress is not None:
            self.progress.remove(kept)
        print(text)
        return rows

    def _notes(self, records: list[Record]) -> list[str]:
        settings = self.settings
        processors = ", ".join(dict.fromkeys(record.processor for record in records))
        notes = [
            f"{settings.count} conformers per protein and mode, bandwidth {settings.bandwidth}, "
            f"temperature {settings.temperature}, seed {settings.seed}; "
            f"{'finished geometry' if self.finish else 'decoder output without finishing'}; "
            f"{self.network.device.type}, {processors}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}."
        ]
        if records:
            titles = {"global": "z_global", "local": "z_local"}
            units = [
                f"{active} of {size} ({titles[latent]})"
                for latent, (active, size) in active_units(records).items()
            ]
            notes.append(f"Active units over all models of all proteins: {', '.join(units)}.")
        for record in records:
            if record.left_out:
                notes.append(f"{record.name}: not scored, as not all models have them, are "
                             f"{listed(record.left_out)}.")  # fmt: skip
        return notes

    def _draw(self, name: str, figure: Figure) -> str:
        file = f"{name.replace('/', '_')}.png"
        save_figure(figure, self.output / "figures" / file, dpi=110)
        if self.show is not None:
            self.show(name, figure)
        return file


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
        finish: None for :func:`~protein_cvae.generation.finisher.geometry_finisher`.  With another
            one nothing is kept against an interruption, as nothing tells it from a third one.

    Returns:
        The rows of evaluation.jsonl.
    """
    progress = None
    if finish is None:
        progress = Progress(output / PROGRESS, network, settings, FinishOptions())
    run = EvaluationRun(network, settings, output, finish or geometry_finisher(), progress=progress)
    for case in cases:
        run.add(case)
    return run.close()


def start_evaluation(
    network: ProteinCVAE, settings: EvaluationSettings, trainer: pl.Trainer
) -> EvaluationRun:
    """The run of ``lightning test``: figures go to TensorBoard too; called on every rank.

    What is found is kept in the folder of the results; where every run has a log folder of its own,
    beside these folders.
    """
    if trainer.ckpt_path is None:
        rank_zero_warn("no --ckpt_path is given: the model has the weights it was built with")
    log_dir = trainer.log_dir  # a broadcast: every rank has to read it
    if settings.output is not None:
        folder = Path(settings.output)
    else:
        folder = Path(log_dir or trainer.default_root_dir) / "evaluation"
    kept = folder / PROGRESS
    numbered = isinstance(trainer.logger, TensorBoardLogger | CSVLogger)
    if settings.output is None and log_dir is not None and numbered:
        kept = Path(log_dir).parent / f"evaluation_{PROGRESS}"

    def show(name: str, figure: Figure) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"evaluation/{name}", figure, close=False)

    progress = Progress(kept, network, settings, FinishOptions())
    run = EvaluationRun(network, settings, folder, geometry_finisher(), show, progress)
    data = getattr(trainer, "datamodule", None)
    if trainer.is_global_zero and isinstance(data, EnsembleDataModule):
        write_reading(folder / "reading.json", data.ensembles)
    return run


def _of_all_ranks(mine: list[Found]) -> list[Found]:
    """The entries of all ranks' lists."""
    parts: list[list[Found] | None] = [mine]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
    return [entry for part in parts for entry in part or []]
