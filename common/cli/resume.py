"""``--resume``: go on with the run of this configuration if there is one, else start it.

The folder of a run is that of its first logger, ``<save_dir>/<name>/version_N``; without a logger
it is ``trainer.default_root_dir``.  A resumed fit goes on in the same folder.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from common.cli.runs import Found, RunRecord, newest_checkpoint
from common.errors import UserError

_KINDS = {"TensorBoardLogger": TensorBoardLogger, "CSVLogger": CSVLogger}
_DEFAULT_NAME = "lightning_logs"


def is_requeued() -> bool:
    """Whether SLURM runs this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def prepare_resume(
    options: Namespace, record: RunRecord, class_path: object, same_job: bool
) -> tuple[Found | None, list[str]]:
    """Point a fit's options at the checkpoint to go on from and at its log folder.

    Args:
        options: of the subcommand; ``ckpt_path`` and the logger's version are set in place.
        record: of the run.
        class_path: of the model.
        same_job: go on from checkpoints of this SLURM job alone.

    Returns:
        The checkpoint, None if there is none, and lines for the user.

    Raises:
        UserError: if the logger has no folder per run.
    """
    trainer = options["trainer"]
    loggers = _loggers(trainer)
    if loggers is None:
        found, lines = newest_checkpoint([_root(trainer)], record, class_path, same_job)
    else:
        first = loggers[0].init_args
        root = Path(first["save_dir"] or ".") / (first["name"] or "")
        version = first.get("version")
        pattern = "*" if version is None else _folder(version)
        folders = [path for path in root.glob(pattern) if path.is_dir()]
        found, lines = newest_checkpoint(folders, record, class_path, same_job)
        if found is not None:
            _set_version(loggers, found.folder.name)
            trainer["logger"] = loggers if isinstance(trainer["logger"], list) else loggers[0]
    if found is not None:
        options["ckpt_path"] = str(found.path)
    return found, lines


def _root(trainer: Namespace) -> Path:
    return Path(trainer.get("default_root_dir") or os.getcwd())


def _folder(version: object) -> str:
    return version if isinstance(version, str) else f"version_{version}"


def _loggers(trainer: Namespace) -> list[Namespace] | None:
    """The loggers of the configuration, the default one spelt out; None without any."""
    given = trainer.get("logger")
    if given is False or given == []:
        return None
    if given is None or given is True:
        init_args = Namespace(save_dir=str(_root(trainer)), name=_DEFAULT_NAME, version=None)
        return [Namespace(class_path=_path(TensorBoardLogger), init_args=init_args)]
    loggers = given if isinstance(given, list) else [given]
    kind = str(loggers[0]["class_path"]).rpartition(".")[2]
    if kind not in _KINDS:
        raise UserError(
            f"--resume needs a logger with one folder for each run, {' or '.join(_KINDS)}, as the "
            f"first of trainer.logger; it is {kind}. Put one before it, or give --ckpt_path"
        )
    return loggers


def _path(kind: type[Logger]) -> str:
    return f"lightning.pytorch.loggers.{kind.__name__}"


def _set_version(loggers: Sequence[Namespace], folder: str) -> None:
    number = folder.removeprefix("version_")
    version = int(number) if number.isdigit() else folder
    for logger in loggers:
        if str(logger["class_path"]).rpartition(".")[2] in _KINDS:
            logger.init_args["version"] = version


def continue_logs(loggers: Sequence[Logger], step: int) -> None:
    """Let loggers go on in the folder of the run, from ``step`` on.

    What was logged after the checkpoint comes again: TensorBoard is told to drop it, and the rows
    of a CSV file, which Lightning would delete whole, are kept up to there.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step
        elif isinstance(logger, CSVLogger):
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: int) -> None:
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    reader = csv.DictReader(io.StringIO(path.read_text()))
    rows = [row for row in reader if int(row["step"]) < step]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        writer: Any = logger.experiment  # deletes the file; does nothing on ranks above 0
    keys = getattr(writer, "metrics_keys", None)
    if keys is None or not rows:
        return
    keys.extend(reader.fieldnames or [])
    with path.open("w", newline="") as file:
        kept = csv.DictWriter(file, fieldnames=list(keys))
        kept.writeheader()
        kept.writerows(rows)
