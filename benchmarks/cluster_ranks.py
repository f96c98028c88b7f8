"""A cluster of gloo processes on one machine: SLURM's variables, its ``scontrol``, and faults.

As SLURM does, ``scontrol requeue`` ends the tasks of the job with SIGTERM.  Each rank runs the
``lightning`` command.  Ranks are forked from a process that has imported everything and computed
nothing, and run several commands one after the other: imports take longer than a small fit.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer

from common.cli.arguments import import_models
from common.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
Where = Literal["start", "step", "mixed", "validation"]


class Fault(Callback):
    """A process signals itself.

    Args:
        number: of the signal.
        step: after how many steps.
        rank: which process; null for all.
        where: ``start`` of the next step, in the ``step``, its gradients computed; ``mixed``: even
            ranks at the start, odd ones in the step; ``validation``: in the first one after
            ``step`` steps.
    """

    def __init__(
        self, number: int, step: int, rank: int | None = None, where: Where = "step"
    ) -> None:
        self.number, self.step, self.rank, self.where = number, step, rank, where
        # torchrun starts a job again with the same command.
        self.done = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        mine = self.where == "mixed" and trainer.global_rank % 2 == 0
        if self.where == "start" or mine:
            self._signal(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, *_: object) -> None:
        mine = self.where == "mixed" and trainer.global_rank % 2 == 1
        if self.where == "step" or mine:
            self._signal(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        if self.where == "validation" and not trainer.sanity_checking:
            self._signal(trainer)

    def _signal(self, trainer: Trainer) -> None:
        here = self.rank is None or trainer.global_rank == self.rank
        if here and not self.done and trainer.global_step >= self.step:
            self.done = True
            os.kill(os.getpid(), self.number)


class Pace(Callback):
    """Steps take at least so many seconds, so that a signal from outside meets one of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        time.sleep(self.seconds)


def callback(name: str, **arguments: object) -> str:
    """The option that adds a callback of this file to a fit."""
    given = {"class_path": f"cluster_ranks.{name}", "init_args": arguments}
    return f"--trainer.callbacks+={json.dumps(given)}"


@dataclass(frozen=True)
class Ended:
    """How the processes of a job ended.

    Attributes:
        codes: exit status by rank; minus the number of the signal where one ended it.
        seconds: from the end of the first one to that of the last.
        printed: what each of them printed.
        requeued: how ``scontrol`` was called.
    """

    codes: list[int]
    seconds: float
    printed: list[str]
    requeued: list[str]


class Job:
    """A SLURM job of ``world`` tasks on ``nodes`` nodes, which may run several times.

    Args:
        folder: for what it prints; the working directory of its tasks.
        number: of the job.
        world: tasks of all nodes.
        nodes: number of nodes.
    """

    def __init__(self, folder: Path, number: int, world: int, nodes: int = 1) -> None:
        self.folder, self.number, self.world, self.nodes = folder, number, world, nodes
        self.restarts = 0
        self.calls = folder / f"scontrol_{number}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "bin" / "scontrol"
        program.parent.mkdir(exist_ok=True)
        # The tasks are one process group, which this program belongs to.
        program.write_text(
            f"#!/bin/sh\ntrap '' TERM\necho \"$@\" >> {self.calls}\nkill -TERM 0\n", "utf-8"
        )
        program.chmod(0o755)

    def environment(self, rank: int, port: int) -> dict[str, str]:
        """What SLURM tells a task."""
        per_node = self.world // self.nodes
        values: Mapping[str, object] = {
            "SLURM_JOB_ID": self.number, "SLURM_JOB_NAME": "train", "SLURM_NNODES": self.nodes,
            "SLURM_NTASKS": self.world, "SLURM_STEP_NUM_TASKS": self.world,
            "SLURM_NTASKS_PER_NODE": per_node, "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank % per_node, "SLURM_NODEID": rank // per_node,
            "SLURM_RESTART_COUNT": self.restarts,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        search = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {"PATH": search, **{key: str(value) for key, value in values.items()}}

    @property
    def options(self) -> list[str]:
        """What makes a fit one of this job."""
        per_node = self.world // self.nodes
        return [
            f"--trainer.devices={per_node}", f"--trainer.num_nodes={self.nodes}",
            "--trainer.strategy=ddp", "--trainer.accelerator=cpu",
        ]  # fmt: skip

    def run(
        self, *commands: Sequence[str], timeout: float = 1800, cancel: Path | None = None
    ) -> Ended:
        """Run commands one after the other on every rank, once.

        Args:
            commands: arguments of ``lightning``.
            timeout: seconds; processes that live longer are killed and reported as such.
            cancel: send SIGTERM to all of them as soon as this file is there, as scancel does.
        """
        import_models()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        logs = [self.folder / f"rank_{rank}.txt" for rank in range(self.world)]
        ranks: list[int] = []
        for rank, log in enumerate(logs):
            group = ranks[0] if ranks else 0
            pid = os.fork()
            if pid == 0:
                self._run_rank(rank, port, group, log, commands)
            ranks.append(pid)
        self.restarts += 1
        ends, codes = _wait(ranks, time.monotonic() + timeout, cancel)
        return Ended(
            codes,
            max(ends) - min(ends),
            [log.read_text("utf-8", "replace") for log in logs],
            self.calls.read_text().splitlines() if self.calls.exists() else [],
        )

    def _run_rank(
        self, rank: int, port: int, group: int, log: Path, commands: Sequence[Sequence[str]]
    ) -> NoReturn:
        """What a rank does, from its fork to its end; the first command that fails ends it."""
        status = 1
        try:
            os.setpgid(0, group)
            with log.open("wb") as printed:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
            for name in [name for name in os.environ if name.startswith("SLURM_")]:
                del os.environ[name]
            os.environ.update(self.environment(rank, port))
            os.chdir(self.folder)
            sys.argv = ["lightning"]
            rank_zero_only.rank = rank  # what Lightning takes from the environment when imported
            for command in commands:
                main(command)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _wait(
    ranks: Sequence[int], deadline: float, cancel: Path | None
) -> tuple[list[float], list[int]]:
    """When each of the processes has ended, and with which status."""
    ends: dict[int, float] = {}
    codes: dict[int, int] = {}
    while len(codes) < len(ranks):
        if time.monotonic() > deadline:
            _send(set(ranks) - set(codes), signal.SIGKILL)
        if cancel is not None and cancel.exists():
            _send(set(ranks) - set(codes), signal.SIGTERM)
            cancel = None
        for pid in set(ranks) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                ends[pid], codes[pid] = time.monotonic(), os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return [ends[pid] for pid in ranks], [codes[pid] for pid in ranks]


def _send(ranks: set[int], number: signal.Signals) -> None:
    for pid in ranks:
        os.kill(pid, number)
