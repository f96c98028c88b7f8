"""What reading the data gave rise to, in full, in a JSON file beside a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from common.files.atomic import atomic_path
from common.report.tables import to_json
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.ensemble import Ensemble


def reading_report(ensembles: Sequence[Ensemble]) -> list[dict[str, Any]]:
    """Name, source, size and notes of each ensemble, as plain types."""
    return [
        {
            "name": ensemble.name,
            "source": ensemble.source,
            "models": ensemble.num_models,
            "residues": ensemble.length,
            "chains": list(ensemble.chain_ids),
            "notes": ensemble.report.to_list(),
        }
        for ensemble in ensembles
    ]


def write_reading(path: Path, ensembles: Sequence[Ensemble]) -> Path:
    """Write :func:`reading_report` to a file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_json({"read": reading_report(ensembles)}, indent=2), "utf-8")
    return path


class WriteReading(pl.Callback):
    """Writes what was read before anything is trained.

    Args:
        path: the file; of data modules of another kind nothing is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(data, EnsembleDataModule):
            write_reading(self.path, data.ensembles)
