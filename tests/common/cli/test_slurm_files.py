"""The overlay and the job script of SLURM: syntax, and that every option they name exists."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment
from page_commands import commands, words

from common.cli import main as cli

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "configs/trainer/slurm.sbatch"
# Those of the manual pages that a training may need (https://slurm.schedmd.com/sbatch.html, srun).
SBATCH = {
    "account", "constraint", "cpus-per-task", "error", "exclude", "gres", "job-name", "mem",
    "mem-per-cpu", "nodes", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue",
    "signal", "time",
}  # fmt: skip
SRUN = {"cpu-bind", "cpus-per-task", "kill-on-bad-exit", "label", "ntasks", "unbuffered"}


@pytest.fixture
def options() -> dict[str, str]:
    """What the script asks sbatch for."""
    lines = SCRIPT.read_text().splitlines()
    found = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH "))
    # sbatch stops reading at the first line that is neither empty nor a comment.
    assert all(not line or line.startswith("#") for line in lines[:last])
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", option) for option in found), found
    return {name[2:]: value for name, _, value in (option.partition("=") for option in found)}


def test_the_script_is_one_that_bash_and_sbatch_read(options: dict[str, str]) -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(options) <= SBATCH
    assert options["ntasks-per-node"] == options["gres"].rpartition(":")[2]
    name, seconds = options["signal"].split("@")  # without "B:", to the tasks
    assert SLURMEnvironment().requeue_signal == signal.Signals[name]
    assert int(seconds) >= 60
    assert "requeue" in options


def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The words of each srun command of the script, in a job of 2 nodes of 4 tasks."""
    for name, value in (("CPUS_PER_TASK", 8), ("NNODES", 2), ("NTASKS_PER_NODE", 4)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for line in commands(SCRIPT.read_text()):
        if line.startswith("srun "):
            yield words(line, tmp_path)


def test_every_option_of_its_command_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = launched(tmp_path, monkeypatch)
    at = found.index("lightning")
    assert {word[2:].partition("=")[0] for word in found[1:at]} <= SRUN
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        cli.main([*found[at + 1 :], "--print_config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    trainer = printed["trainer"]
    assert (trainer["num_nodes"], trainer["devices"]) in ((2, 4), (2, "4"))
    assert (trainer["strategy"], trainer["accelerator"]) == ("ddp", "gpu")
    assert printed["resume"]


def test_the_options_in_the_comments_of_the_overlay_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = ROOT / "configs/trainer/slurm.yaml"
    named = re.findall(r"^#   (--trainer\S+)$", overlay.read_text(), re.MULTILINE)
    assert len(named) == 2
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.chdir(ROOT)
    config = "configs/protein_cvae/fit.yaml"
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", f"--config={config}", f"--config={overlay}", *named, "--print_config"])
    assert end.value.code == 0
    (plugin,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["plugins"]
    assert plugin["init_args"]["requeue_signal"] == "SIGUSR2"
