"""Long commands run side by side with a log each, a heartbeat, and a failure one can act on.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import processes

HEARTBEAT_SECONDS = 20.0
POLL_SECONDS = 0.1
TAIL_LINES = 30


class StepFailed(Exception):
    """A step that cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what it does, shown to the user and the stem of its log file.
        command: argument vector.
        advice: what to do if it fails.
    """

    name: str
    command: Sequence[str]
    advice: str


def say(text: str) -> None:
    """Progress goes to standard error, so that the output of the job stays clean."""
    print(f"[edgewise] {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def run_steps(
    steps: Sequence[Step],
    log_folder: Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Run the steps at the same time; return when all have succeeded.

    Args:
        steps: commands that do not depend on each other.
        log_folder: receives ``<name>.log`` of each, overwriting an older one.
        cwd: working directory of the commands.
        environment: variables set on top of the process's own.

    Returns:
        Seconds of each step, by name, in the order in which they ended.

    Raises:
        StepFailed: with the tail of the log, as soon as one fails; the others are stopped.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    running: dict[Step, subprocess.Popen[bytes]] = {}
    seconds: dict[str, float] = {}
    variables = {**os.environ, **(environment or {})}
    try:
        for step in steps:
            say(f"{step.name} ...")
            with _log(log_folder, step).open("wb") as log:
                running[step] = processes.start(step.command, cwd, variables, log)
        beat = started
        while running:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            for step in [step for step, process in running.items() if process.poll() is not None]:
                status = running.pop(step).returncode
                if status:
                    raise StepFailed(_report(step, status, _log(log_folder, step)))
                seconds[step.name] = now - started
                say(f"{step.name}: done in {clock(now - started)}")
            if now - beat >= HEARTBEAT_SECONDS:
                beat = now
                for step in running:
                    last = _tail(_log(log_folder, step), 1)[:70]
                    say(f"{step.name}: {clock(now - started)} so far | {last}")
    finally:
        for process in running.values():
            processes.stop(process)
    return seconds


def _log(log_folder: Path, step: Step) -> Path:
    return log_folder / f"{step.name.replace(' ', '-')}.log"


def _tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-lines:])


def _report(step: Step, status: int, log: Path) -> str:
    return (
        f"{step.name} failed with status {status}. The end of its log:\n\n"
        f"{_tail(log, TAIL_LINES)}\n\n"
        f"What to do: {step.advice}\nFull log: {log}\n"
        "Finished steps are kept: run the same command again to go on from here."
    )
