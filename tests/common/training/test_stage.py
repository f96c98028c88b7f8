"""Stages in processes of their own."""

from __future__ import annotations

import os
import sys
from typing import cast

import pytest

from common import processes
from common.training.stage import run_stage

LAUNCHER = (
    "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK",
    "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "PMI_RANK",
    "OMPI_COMM_WORLD_RANK", "PL_GLOBAL_SEED",
)  # fmt: skip


def test_a_stage_starts_without_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def fake(command: list[str], environment: dict[str, str]) -> int:
        seen.update(command=command, env=environment)
        return 0

    for name in LAUNCHER:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("EDGEWISE_DATA", "kept")
    monkeypatch.setattr(processes, "run", fake)
    run_stage(["fit", "--config", "a b.yaml"])
    assert seen["command"] == [sys.executable, "-m", "common.cli", "fit", "--config", "a b.yaml"]
    environment = cast(dict[str, str], seen["env"])
    assert not set(LAUNCHER) & set(environment)
    assert environment["EDGEWISE_DATA"] == "kept"
    assert "PATH" in environment


@pytest.mark.parametrize("terminal", [False, True], ids=["no terminal", "terminal"])
def test_only_a_terminal_is_told_to_be_one(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    seen: list[dict[str, str]] = []

    def fake(command: list[str], environment: dict[str, str]) -> int:
        seen.append(environment)
        return 0

    monkeypatch.setenv("FORCE_COLOR", "1")  # as a Jupyter kernel does
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    monkeypatch.setattr(processes, "run", fake)
    run_stage(["fit"])
    assert ("FORCE_COLOR" in seen[0]) == terminal


def test_a_failed_stage_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "run", lambda command, **_: 2)
    with pytest.raises(ValueError, match=r"`lightning fit --config=x` failed with status 2"):
        run_stage(["fit", "--config=x"])
