"""What a run is, which checkpoints it has left, and the newest that a fit can go on from.

A run is one configuration (model, data, seed) in one log folder.  Every checkpoint of a fit started
on the command line says which run it belongs to, so that one of another run, model or data is never
taken for its own, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli.checkpoints import complaint_about
from common.errors import UserError
from common.files.checkpoint import read_checkpoint
from common.training.interruption import job_id

RUN_KEY = "edgewise_run"
# Sections of the configuration that make a run; what may differ between two attempts at it.
_SECTIONS = ("model", "data", "seed_everything")
_FREE = ("num_workers", "pin_memory")


@dataclass(frozen=True)
class RunRecord:
    """Identity of a run, of plain types, as its checkpoints hold it.

    Attributes:
        config: value of every setting that makes the run, as text, by its dotted key.
        job: number of the SLURM job that wrote the checkpoint; "" outside SLURM.
    """

    config: Mapping[str, str]
    job: str

    @staticmethod
    def of(options: Mapping[str, Any]) -> RunRecord:
        """The record of a subcommand's flat configuration."""
        chosen = {
            key: str(value)
            for key, value in options.items()
            if key.split(".")[0] in _SECTIONS and key.split(".")[-1] not in _FREE
        }
        return RunRecord(chosen, job_id())

    def state(self) -> dict[str, Any]:
        return {"config": dict(self.config), "job": self.job}

    def differences(self, found: Mapping[str, str]) -> str:
        """How another configuration differs from this one; "" if it does not."""
        keys = sorted(set(self.config) | set(found))
        changed = [
            f"{key} {found.get(key, 'absent')}, not {self.config.get(key, 'absent')}"
            for key in keys
            if self.config.get(key) != found.get(key)
        ]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return "; ".join(changed[:3]) + more


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        path: the file.
        folder: the log folder of its run.
        epoch, step: where it stands.
    """

    path: Path
    folder: Path
    epoch: int
    step: int


def checkpoints_in(folder: Path) -> Iterator[Path]:
    """Every checkpoint of the run in a log folder, each once."""
    seen = set()
    for pattern in ("*.ckpt", "checkpoints/*.ckpt"):
        for path in sorted(folder.glob(pattern)):
            target = path.resolve()
            if target not in seen:
                seen.add(target)
                yield path


def newest_checkpoint(
    folders: list[Path], record: RunRecord, class_path: object, same_job: bool = False
) -> tuple[Found | None, list[str]]:
    """The furthest valid checkpoint of the newest run of this configuration.

    Under SLURM a run of this very job comes before others.

    Args:
        folders: log folders, of any runs.
        record: of the run that is to go on.
        class_path: of the model.
        same_job: take checkpoints of this SLURM job alone.

    Returns:
        The checkpoint, None if there is none, and a line about each file and folder passed over.
    """
    passed: list[str] = []
    runs: list[tuple[bool, float, Found]] = []
    for folder in folders:
        best: tuple[tuple[int, int], Found, bool] | None = None
        for path in checkpoints_in(folder):
            state, reason = _state_of(path, record, class_path)
            if state is None:
                passed.append(f"{path} is passed over: {reason}")
                continue
            found = Found(path, folder, int(state["epoch"]), int(state["global_step"]))
            place = (found.step, path.stat().st_mtime_ns)
            own = bool(record.job) and state[RUN_KEY]["job"] == record.job
            if (own or not same_job) and (best is None or place > best[0]):
                best = place, found, own
        if best is not None:
            runs.append((best[2], best[0][1], best[1]))
    return (max(runs, key=lambda run: run[:2])[2] if runs else None), passed


def _state_of(
    path: Path, record: RunRecord, class_path: object
) -> tuple[dict[str, Any] | None, str]:
    """The content of a checkpoint of this run; None and a reason if it is not one."""
    complaint = complaint_about(path, class_path)
    if complaint is not None:
        return None, complaint.removeprefix(f"{path} ")
    state = read_checkpoint(path, mmap=True)
    run = state.get(RUN_KEY)
    if run is None:
        return None, "it does not say which run it belongs to; --ckpt_path takes it"
    differences = record.differences(run["config"])
    if differences:
        return None, f"it belongs to another run ({differences})"
    return state, ""


def refuse_foreign_hpc(folder: Path) -> None:
    """Refuse a checkpoint that Lightning would go on from by itself, under SLURM, unasked.

    Raises:
        UserError: naming the file, if there is one in ``folder``.
    """
    for path in sorted(folder.glob("hpc_ckpt_*")):
        raise UserError(
            f"{path} was left by another run, and under SLURM Lightning would load it unasked: "
            "give --resume or --ckpt_path to go on from it, else delete it or choose another "
            "trainer.default_root_dir"
        )
