"""The `lightning` command in processes of its own, and the weights it leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, "-m", "common.cli"]


def lightning(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in ``cwd``; it must succeed unless ``check`` is False."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def options(values: Mapping[str, object]) -> list[str]:
    """Arguments of the command."""
    return [f"--{key}={value}" for key, value in values.items()]


def killed_fit(arguments: list[str], out: Path, epoch: int) -> Path:
    """Fit in the new folder ``out`` until the end of ``epoch``, then SIGKILL; its last.ckpt."""
    out.mkdir()
    with (
        open(out / "log", "wb") as log,
        subprocess.Popen(
            [*COMMAND, "fit", *arguments], cwd=out, env=ENVIRONMENT, stdout=log, stderr=log
        ) as process,
    ):
        try:
            return _wait_for_epoch(out, epoch, process)
        finally:
            process.kill()


def _wait_for_epoch(out: Path, epoch: int, process: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        for path in out.rglob("last.ckpt"):
            if torch.load(path, weights_only=True)["epoch"] >= epoch:
                return path
        time.sleep(0.005)
    raise AssertionError(f"no last.ckpt of epoch {epoch} during the run")


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
