"""The `lightning` command in processes of its own, and the weights it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lightning import Callback, Trainer

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])  # the second for KillInEpoch
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
COMMAND = [sys.executable, "-m", "common.cli"]


# Writes a checkpoint after every step.
EVERY_STEP = json.dumps(
    {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "{step}", "save_top_k": -1, "every_n_train_steps": 1},
    }
)


def lightning(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in ``cwd``; it must succeed unless ``check`` is False."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def on_two_ranks(*commands: list[str], cwd: Path) -> None:
    """Run commands one after the other on two ranks of gloo; each must succeed."""
    file = cwd / "commands.json"
    file.write_text(json.dumps(commands))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in range(2):
        with (cwd / f"rank_{rank}.txt").open("w") as printed:
            place = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("lightning_rank.py")), str(file)],
                    cwd=cwd, env=ENVIRONMENT | place, stdout=printed, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:  # one that failed leaves the other waiting
            rank.kill()
    texts = [(cwd / f"rank_{rank}.txt").read_text()[-3000:] for rank in range(2)]
    assert codes == [0, 0], "\n".join(texts)


def resumed_on_two_ranks(
    arguments: Callable[..., list[str]], name: str, folder: Path, settings: Mapping[str, object]
) -> tuple[Path, Path]:
    """Fit two epochs on two ranks, and once more from the checkpoint after the third step.

    Args:
        arguments: of the command, from a folder and settings.
        name: of the logger.
        folder: for both.
        settings: beyond epochs and devices.

    Returns:
        The folders of the whole fit and of the resumed one.
    """
    whole, resumed = folder / "whole", folder / "resumed"
    checkpoint = whole / name / "version_0/checkpoints/step=3.ckpt"
    both = {
        **settings,
        "trainer.max_epochs": 2,
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
    }
    on_two_ranks(
        ["fit", *arguments(whole, **both), f"--trainer.callbacks+={EVERY_STEP}"],
        ["fit", *arguments(resumed, ckpt_path=checkpoint, **both)],
        cwd=folder,
    )
    return whole, resumed


def options(values: Mapping[str, object]) -> list[str]:
    """Arguments of the command."""
    return [f"--{key}={value}" for key, value in values.items()]


class KillInEpoch(Callback):
    """The process kills itself in the first step of an epoch, its gradients computed.

    From outside there is no such moment to be sure of: the run may end before the signal arrives.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_before_optimizer_step(self, trainer: Trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


class KillInTest(Callback):
    """The process kills itself when a number of test batches are done."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_test_batch_end(self, trainer: Trainer, *rest: object) -> None:
        *_, batch_idx = (value for value in rest if isinstance(value, int))
        if batch_idx + 1 == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_fit(arguments: list[str], out: Path, epoch: int) -> Path:
    """Fit in the new folder ``out`` until SIGKILL in ``epoch``, from 0; the last.ckpt it leaves."""
    out.mkdir()
    killer = {"class_path": "lightning_runs.KillInEpoch", "init_args": {"epoch": epoch}}
    done = lightning(
        "fit", *arguments, f"--trainer.callbacks+={json.dumps(killer)}", cwd=out, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stdout[-3000:] + done.stderr[-3000:]
    checkpoint = last(out)
    assert torch.load(checkpoint, weights_only=True)["epoch"] == epoch - 1
    return checkpoint


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """The command has ended as it does on bad input: one line that says so, no traceback."""
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr[-2000:]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


def last(out: Path) -> Path:
    """The only last.ckpt below a folder."""
    (found,) = out.rglob("last.ckpt")
    return found


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance: float) -> None:
    """Equal names, and values within ``rtol`` and ``atol``."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
