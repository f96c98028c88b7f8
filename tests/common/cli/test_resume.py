"""`fit --resume`: one command that goes on with a run or starts it, and never with another's."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.cli import main as cli
from common.cli.messages import TRACEBACK_VARIABLE

TOY = '''
import os
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset

from common.training.loader import DrawLoader
from common.training.sampler import DrawSampler


class Draws(Dataset):
    def __getitem__(self, index):
        return torch.tensor([float(index % 7)])


class Toy(LightningModule):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, width)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def predict_step(self, batch, index):
        return self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.1)


class ToyData(LightningDataModule):
    def __init__(self, draws: int = 12) -> None:
        super().__init__()
        self.draws = draws

    def train_dataloader(self):
        return DrawLoader(Draws(), DrawSampler(self.draws), 2)

    predict_dataloader = train_dataloader


class At(Callback):
    """In the middle of a step: a signal, or, with number 0, an end without notice."""

    def __init__(self, step: int, number: int = 0) -> None:
        self.step, self.number = step, number

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            if not self.number:
                raise MemoryError("killed")
            os.kill(os.getpid(), self.number)
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning"])
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "resumed_toy.py").write_text(TOY)
    content = {
        "model": {"class_path": "resumed_toy.Toy", "init_args": {"width": 3}},
        "data": {"class_path": "resumed_toy.ToyData"},
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"save_last": True},
                }
            ],
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    yield tmp_path / "config.yaml"
    sys.modules.pop("resumed_toy", None)


def fit(*arguments: str) -> None:
    cli.main(["fit", "--config", "config.yaml", *arguments])


def stopped(step: int, number: int, *arguments: str) -> None:
    """A fit that is stopped in the step after ``step`` ones."""
    callback = '{"class_path": "resumed_toy.At", "init_args": {"step": %d, "number": %d}}'
    given = (*arguments, "--trainer.callbacks+", callback % (step, number))
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit) as end:
            fit(*given)
        assert end.value.code == 128 + signal.SIGTERM
    elif number:
        fit(*given)
    else:
        with pytest.raises(MemoryError):
            fit(*given)


def logs(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "lightning_logs"


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(b["state_dict"][name], value) for name, value in a["state_dict"].items())


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_the_same_command_starts_a_run_and_goes_on_with_it(config, tmp_path, capsys, number):
    """In the same folder; weights and log are those of a run that was never stopped."""
    fit(*LOGGER, "--trainer.logger.init_args.name=whole")
    stopped(8, number, "--resume")
    assert "no checkpoint of this run; it starts" in capsys.readouterr().err
    fit("--resume")
    error = capsys.readouterr().err
    folder = logs(tmp_path) / "version_0"
    assert f"resuming {folder.relative_to(tmp_path)}/" in error
    assert f"step {9 if number else 6})" in error
    assert [path.name for path in logs(tmp_path).iterdir()] == ["version_0"]
    whole = tmp_path / "runs" / "whole" / "version_0"
    assert last(folder)["global_step"] == 18
    assert equal(last(folder), last(whole))
    found, wanted = (
        [(point.step, point.value) for point in EventAccumulator(str(run)).Reload().Scalars("loss")]
        for run in (folder, whole)
    )
    assert found == wanted
    assert not list(tmp_path.rglob("interrupted.ckpt"))


LOGGER = (
    "--trainer.logger.class_path=lightning.pytorch.loggers.TensorBoardLogger",
    "--trainer.logger.init_args.save_dir=runs",
)
CSV = (
    "--trainer.logger.class_path=lightning.pytorch.loggers.CSVLogger",
    "--trainer.logger.init_args.save_dir=runs",
)


def test_a_csv_log_goes_on(config, tmp_path):
    name = "--trainer.logger.init_args.name="
    fit(*CSV, f"{name}whole")
    stopped(8, 0, *CSV, f"{name}mine", "--resume")
    fit(*CSV, f"{name}mine", "--resume")
    whole, mine = (
        list(csv.DictReader((folder / "version_0" / "metrics.csv").read_text().splitlines()))
        for folder in (tmp_path / "runs" / "whole", tmp_path / "runs" / "mine")
    )
    assert len(whole) == 18
    assert mine == whole


def test_without_a_logger_the_root_is_the_folder_of_the_run(config, tmp_path, capsys):
    stopped(8, 0, "--trainer.logger=false", "--resume")
    fit("--trainer.logger=false", "--resume")
    assert "resuming runs/checkpoints/last.ckpt (epoch 0, step 6)" in capsys.readouterr().err


def test_a_finished_run_is_not_trained_again(config, tmp_path):
    fit()
    before = last(logs(tmp_path) / "version_0")
    fit("--resume")
    assert [path.name for path in logs(tmp_path).iterdir()] == ["version_0"]
    assert equal(before, last(logs(tmp_path) / "version_0"))


def test_a_half_written_checkpoint_is_passed_over(config, tmp_path, capsys):
    stopped(8, signal.SIGTERM)
    broken = logs(tmp_path) / "version_0" / "interrupted.ckpt"
    broken.write_bytes(broken.read_bytes()[:2000])
    fit("--resume")
    error = capsys.readouterr().err
    assert "interrupted.ckpt is passed over: is damaged, or no checkpoint" in error
    assert "checkpoints/last.ckpt (epoch 0, step 6)" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.init_args.width=4", "model.init_args.width 3, not 4"),
        ("--data.init_args.draws=8", "data.init_args.draws 12, not 8"),
        ("--seed_everything=1", "seed_everything 0, not 1"),
    ],
)
def test_a_run_of_another_configuration_is_left_alone(config, tmp_path, capsys, change, message):
    stopped(8, 0)
    fit("--resume", change)
    error = capsys.readouterr().err
    assert f"last.ckpt is passed over: it belongs to another run ({message})" in error
    assert "it starts from the beginning" in error
    assert last(logs(tmp_path) / "version_0")["global_step"] == 6
    assert last(logs(tmp_path) / "version_1")["global_step"] in (12, 18)


def slurm(monkeypatch: pytest.MonkeyPatch, job: int, restarts: int = 0) -> None:
    values = {
        "SLURM_JOB_ID": job, "SLURM_NTASKS": 1, "SLURM_PROCID": 0, "SLURM_LOCALID": 0,
        "SLURM_NODEID": 0, "SLURM_JOB_NAME": "train", "SLURM_RESTART_COUNT": restarts,
        "SLURM_NNODES": 1, "SLURM_NTASKS_PER_NODE": 1,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    # What Lightning takes from the environment when it is imported.
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 0)


def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that writes down how it was called; the file that it writes to."""
    program, called = tmp_path / "bin" / "scontrol", tmp_path / "called"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return called


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_a_requeued_job_goes_on_and_a_later_one_does_not(config, tmp_path, monkeypatch, capsys):
    called = scontrol(tmp_path, monkeypatch)
    slurm(monkeypatch, 7)
    killed = '{"class_path": "resumed_toy.At", "init_args": {"step": 10}}'
    with pytest.raises(MemoryError):
        stopped(8, signal.SIGUSR1, *LOGGER, "--trainer.callbacks+", killed)
    assert called.read_text() == "requeue 7\n"
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    slurm(monkeypatch, 8)
    capsys.readouterr()
    fit(*LOGGER)  # another job, same folder, nothing said about resuming
    assert last(logs(tmp_path) / "version_1")["global_step"] == 18
    assert "resuming" not in capsys.readouterr().err
    slurm(monkeypatch, 7, restarts=1)
    fit(*LOGGER)
    assert "resuming runs/lightning_logs/version_0/interrupted.ckpt" in capsys.readouterr().err
    assert sorted(path.name for path in logs(tmp_path).iterdir()) == ["version_0", "version_1"]
    assert equal(last(logs(tmp_path) / "version_0"), last(logs(tmp_path) / "version_1"))


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_tasks_without_a_device_of_their_own_are_refused(config, tmp_path, monkeypatch, capsys):
    """Each would train alone, into the same files.  A job script outside srun is one process."""
    slurm(monkeypatch, 9)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    fit("--trainer.max_epochs=1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(SystemExit) as end:
        fit("--trainer.max_epochs=1")
    assert end.value.code == 2
    message = "started 2 process(es), but trainer.devices 1 times trainer.num_nodes 1 is 1"
    assert message in capsys.readouterr().err


def test_torchrun_with_other_processes_than_devices_is_refused(config, monkeypatch, capsys):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "4"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit) as end:
        fit()
    assert end.value.code == 2
    assert "started 4 process(es), but trainer.devices 1" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize("subcommand", ["fit", "predict"])
def test_lightnings_own_file_of_an_earlier_job_is_refused(
    config, tmp_path, monkeypatch, capsys, subcommand
):
    fit("--trainer.max_epochs=1")
    (file,) = tmp_path.rglob("last.ckpt")
    file.rename(tmp_path / "runs" / "hpc_ckpt_1.ckpt")
    slurm(monkeypatch, 8)
    with pytest.raises(SystemExit) as end:
        cli.main([subcommand, "--config", "config.yaml", "--trainer.logger=false"])
    assert end.value.code == 2
    assert "runs/hpc_ckpt_1.ckpt was left by another run" in capsys.readouterr().err
    fit()  # with a logger each run has a folder of its own
    assert "Restored" not in capsys.readouterr().err


@pytest.mark.parametrize("keyword", ["last", "best", "hpc"])
def test_keywords_that_name_nothing_are_refused(config, tmp_path, capsys, keyword):
    stopped(8, 0)
    with pytest.raises(SystemExit) as end:
        fit("--ckpt_path", keyword)
    assert end.value.code == 2
    assert f"--ckpt_path {keyword}: there is no such checkpoint in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["predict", "--config", "config.yaml", "--ckpt_path", keyword])
    assert "give the file" in capsys.readouterr().err


def test_last_of_a_fixed_folder_is_taken(config, tmp_path, capsys):
    fixed = (*LOGGER, "--trainer.logger.init_args.version=0")
    stopped(8, 0, *fixed)
    fit("--ckpt_path=last", *fixed)
    assert last(logs(tmp_path) / "version_0")["global_step"] == 18


def test_resume_and_a_checkpoint_exclude_each_other(config, capsys):
    with pytest.raises(SystemExit):
        fit("--resume", "--ckpt_path=some.ckpt")
    assert "give --resume or --ckpt_path, not both" in capsys.readouterr().err


def test_resume_needs_a_logger_with_folders(config, tmp_path, capsys):
    (tmp_path / "own_logger.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n\n\nclass Own(CSVLogger):\n    pass\n"
    )
    with pytest.raises(SystemExit):
        fit("--resume", "--trainer.logger=own_logger.Own", "--trainer.logger.save_dir=x")
    assert "--resume needs a logger with one folder for each run" in capsys.readouterr().err
