"""The command line: a fit, resuming, the saved configuration, and what errors look like."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from common.cli import main as cli
from common.cli.messages import TRACEBACK_VARIABLE

ROOT = Path(__file__).resolve().parents[3]

# Loaded by class path, as a user's module would be.
TOY = '''
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch.utils.data import DataLoader

from common.training.sampler import DrawSampler


class Toy(LightningModule):
    def __init__(self, width: int = 2, optimizer: OptimizerCallable = torch.optim.AdamW) -> None:
        """Args:
            width: size of the layer.
            optimizer: of the parameters.
        """
        super().__init__()
        self.save_hyperparameters()
        self.optimizer = optimizer
        self.layer = torch.nn.Linear(1, width)

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, index):
        self.log("val", self.layer(batch).mean(), batch_size=1)

    def predict_step(self, batch, index):
        return self.layer(batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class CheckedToy(Toy):
    def check_settings(self, trainer):
        raise ArithmeticError(f"checked for {trainer.max_epochs} epochs")


class Draws(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return torch.full((1,), float(index))


class ToyData(LightningDataModule):
    def __init__(self, draws: int = 4, fail: str = "") -> None:
        super().__init__()
        self.draws, self.fail = draws, fail
        if fail == "init":
            _ = int("not a number")
        if fail == "common":
            DrawSampler(5, 2)

    def loader(self):
        sampler = DrawSampler(self.draws, self.trainer.world_size, self.trainer.global_rank)
        sampler.set_epoch(self.trainer.current_epoch)
        return DataLoader(Draws(), batch_size=2, sampler=sampler)

    train_dataloader = val_dataloader = predict_dataloader = loader
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_module.py").write_text(TOY)
    content = {
        "model": {"class_path": "toy_module.Toy", "init_args": {"width": 3}},
        "data": {"class_path": "toy_module.ToyData"},
        "trainer": {
            "max_epochs": 1,
            "default_root_dir": str(tmp_path),
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(tmp_path), "name": "run", "version": 0},
            },
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        },
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    yield str(file)
    sys.modules.pop("toy_module", None)


def run(*args: str) -> None:
    cli.main([*args, "--config", str(ROOT / "configs" / "trainer" / "cpu.yaml")])


def checkpoint(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "run" / "version_0" / "checkpoints").glob("epoch=0*.ckpt")
    return file


def test_fit_resume_and_predict_keep_one_configuration_each(config, tmp_path):
    log_dir = tmp_path / "run" / "version_0"
    run("fit", "--config", config)
    first = checkpoint(tmp_path)
    run("fit", "--config", config, "--ckpt_path", str(first), "--trainer.max_epochs", "2")
    run("predict", "--config", config, "--ckpt_path", str(first))
    saved = sorted(file.name for file in log_dir.glob("*.yaml") if "config" in file.name)
    assert saved == ["config_fit.yaml", "config_fit_2.yaml", "config_predict.yaml"]
    first_run = yaml.safe_load((log_dir / "config_fit.yaml").read_text())
    assert first_run["seed_everything"] == 0
    assert first_run["trainer"]["use_distributed_sampler"] is False
    assert first_run["trainer"]["accelerator"] == "cpu"
    second = yaml.safe_load((log_dir / "config_fit_2.yaml").read_text())
    assert second["trainer"]["max_epochs"] == 2
    assert second["weights_only"] is True
    (resumed,) = (log_dir / "checkpoints").glob("epoch=1*.ckpt")
    assert torch.load(resumed, weights_only=True)["global_step"] == 4


def damaged(good: Path, path: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def with_objects(good: Path, path: Path) -> None:
    torch.save(torch.load(good, weights_only=True) | {"callbacks": Path("x")}, path)


def other_content(good: Path, path: Path) -> None:
    torch.save({"panel": ["Gapdh"], "tensors": {}}, path)


def edited(**settings: object) -> Callable[[Path, Path], None]:
    """A maker of the checkpoint with other hyperparameters; None removes one."""

    def make(good: Path, path: Path) -> None:
        content = torch.load(good, weights_only=True)
        merged = content["hyper_parameters"] | settings
        content["hyper_parameters"] = {k: v for k, v in merged.items() if v is not None}
        torch.save(content, path)

    return make


def other_tensors(good: Path, path: Path) -> None:
    content = torch.load(good, weights_only=True)
    content["state_dict"] = {"strange": torch.zeros(1)}
    torch.save(content, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _, path: path.write_text("not a checkpoint"), "is damaged, or no checkpoint"),
        (damaged, "is damaged, or no checkpoint"),
        (with_objects, "holds objects other than tensors and plain types"),
        (other_content, "is not a checkpoint that `lightning fit` wrote"),
        (edited(_class_path=None), "does not name its model class"),
        (edited(_class_path="toy_module.Other"), "is a checkpoint of toy_module.Other"),
        (
            edited(_class_path="gone.Other"),
            "is a checkpoint of gone.Other, the configuration names",
        ),
        (edited(_class_path="toy_module.ToyData"), "is a checkpoint of toy_module.ToyData"),
        (other_tensors, "does not fit the model of the configuration"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_the_model_is_refused(
    config, tmp_path, capsys, make, message
):
    run("fit", "--config", config)
    path = tmp_path / "given.ckpt"
    make(checkpoint(tmp_path), path)
    with pytest.raises(SystemExit) as stop:
        run("predict", "--config", config, "--ckpt_path", str(path))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert "Traceback" not in error


def test_a_checkpoint_of_an_earlier_layout_loads(config, tmp_path, monkeypatch):
    """Its class is found by name among the public names of the package, which loads it lazily."""
    package = tmp_path / "toy_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "def __getattr__(name):\n"
        "    if name != 'Toy':\n        raise AttributeError(name)\n"
        "    from toy_package.inner.module import Toy\n    return Toy\n"
    )
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "module.py").write_text(TOY)
    text = Path(config).read_text()
    old = tmp_path / "old.ckpt"
    paths = ("toy_package.inner.module.Toy", "toy_package.Toy")
    for configured in paths:
        Path(config).write_text(
            text.replace("toy_module.Toy\n", f"{configured}\n").replace("toy_module", paths[0][:-4])
        )
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run("fit", "--config", config)
        for named in ("toy_package.module.Toy", *paths):
            edited(_class_path=named)(checkpoint(tmp_path), old)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*restores the checkpoint's hyper.*")
                run("predict", "--config", config, "--ckpt_path", str(old))
    edited(_class_path="toy_package.module.Toy")(checkpoint(tmp_path), old)
    with pytest.warns(UserWarning, match=r"replaced: .*width: 5 -> 3"):
        run("predict", "--config", config, "--ckpt_path", str(old), "--model.init_args.width", "5")


def test_the_model_checks_settings_before_a_fit_alone(config, tmp_path):
    run("fit", "--config", config)
    text = Path(config).read_text()
    Path(config).write_text(text.replace("toy_module.Toy\n", "toy_module.CheckedToy\n"))
    with pytest.raises(ArithmeticError, match="checked for 7 epochs"):
        run("fit", "--config", config, "--trainer.max_epochs", "7")
    path = tmp_path / "checked.ckpt"
    edited(_class_path="toy_module.CheckedToy")(checkpoint(tmp_path), path)
    run("predict", "--config", config, "--ckpt_path", str(path))


def test_a_saved_configuration_runs_again(config, tmp_path):
    run("fit", "--config", config)
    run("fit", "--config", str(tmp_path / "run" / "version_0" / "config_fit.yaml"))


def test_defaults_that_the_checkpoint_replaces_are_no_news(config, tmp_path):
    run("fit", "--config", config)
    content = yaml.safe_load(Path(config).read_text())
    del content["model"]["init_args"]  # the class's own default is width 2, the checkpoint's 3
    Path(config).write_text(yaml.safe_dump(content))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*restores the checkpoint's hyperparameters.*")
        run("predict", "--config", config, "--ckpt_path", str(checkpoint(tmp_path)))


def test_settings_replaced_by_the_checkpoint_are_named(config, tmp_path):
    run("fit", "--config", config)
    ckpt = str(checkpoint(tmp_path))
    with pytest.warns(UserWarning, match=r"replaced: .*width: 5 -> 3"):
        run("predict", "--config", config, "--ckpt_path", ckpt, "--model.init_args.width", "5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.max_epoch", "3"], "trainer.max_epoch"),  # not taken as an abbreviation
        (["--model.init_args.wdth", "3"], "wdth"),
        (["--trainer.max_epochs", "many"], "max_epochs"),
        (["--threads", "0"], "threads"),
        (["--ckpt_path", "nowhere.ckpt"], "no such file: nowhere.ckpt"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_usage_errors_are_short_and_name_the_key(config, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", config, *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert len(error.splitlines()) < 15
    assert "Traceback" not in error


def test_compute_threads_are_set(config):
    before = torch.get_num_threads()
    try:
        run("fit", "--config", config, "--threads", str(before + 1))
        assert torch.get_num_threads() == before + 1
        run("fit", "--config", config)  # null: as they are
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_threads_that_wait_do_not_spin():
    """OpenMP reads the variable when torch is imported: the command line sets it before."""
    code = (
        "import os, sys, common.cli; assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for given, found in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        said = subprocess.check_output(
            [sys.executable, "-c", code], env=environment | given, text=True, cwd=ROOT
        )
        assert said.strip() == found


def test_unknown_key_in_a_file_is_named(config, capsys):
    text = Path(config).read_text().replace("max_epochs", "max_epoch")
    Path(config).write_text(text)
    with pytest.raises(SystemExit):
        run("fit", "--config", config)
    assert "max_epoch" in capsys.readouterr().err


def test_our_errors_are_one_line_and_status_2(config, capsys, monkeypatch):
    """DrawSampler refuses three draws... of none, deep inside Lightning."""
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", config, "--data.init_args.draws", "0")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "error: length must be a positive multiple" in error
    assert "Traceback" not in error
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError, match="length must be"):
        run("fit", "--config", config, "--data.init_args.draws", "0")


def test_our_errors_in_a_constructor_are_not_wrapped(config, capsys):
    """jsonargparse would surround the message by the types it tried and the whole input."""
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", config, "--data.init_args.fail", "common")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "error: length must be a positive multiple of the 2 processes, got 5" in error
    assert "Union" not in error


def test_foreign_value_errors_keep_their_traceback(config):
    with pytest.raises(ValueError, match="invalid literal"):
        run("fit", "--config", config, "--data.init_args.fail", "init")


def test_both_ways_of_starting():
    """The installed command and the module name the same subcommands."""
    script = Path(sys.executable).with_name("lightning")
    for command in ([str(script)], [sys.executable, "-m", "common.cli"]):
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        for name in ("fit", "validate", "test", "predict"):
            assert name in done.stdout


def test_shipped_configurations_and_own_modules_are_found_from_any_folder(tmp_path):
    """The installed command, whose search path does not begin with the working directory."""
    (tmp_path / "toy_module.py").write_text(TOY)
    (tmp_path / "my_callback.py").write_text(
        "from lightning.pytorch import Callback\n\n\nclass Mine(Callback):\n"
        "    def on_fit_start(self, *_):\n        print('mine was called')\n"
    )
    script = Path(sys.executable).with_name("lightning")
    done = subprocess.run(
        [
            str(script), "fit", "--config=configs/trainer/cpu.yaml", "--model=toy_module.Toy",
            "--data=toy_module.ToyData", "--trainer.callbacks=my_callback.Mine",
            "--trainer.fast_dev_run=true", "--backend=torch",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine was called" in done.stdout


@pytest.mark.parametrize(
    "strategy", ["fsdp", "deepspeed_stage_2", "lightning.pytorch.strategies.FSDPStrategy"]
)
def test_strategies_that_share_out_parameters_are_refused(config, capsys, strategy):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", config, "--trainer.strategy", strategy])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"trainer.strategy {strategy.rpartition('.')[2]} is not supported" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("key", "value"), [("devices", "0"), ("accelerator", "tpu")])
def test_what_lightning_cannot_use_is_one_line(config, capsys, key, value):
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["fit", "--config", config, "--trainer.accelerator=cpu", f"--trainer.{key}", value]
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert "Traceback" not in error


def test_an_unknown_backend_is_refused(config, capsys, monkeypatch):
    monkeypatch.setenv("EDGEWISE_BACKEND", "auto")
    with pytest.raises(SystemExit):
        run("fit", "--config", config, "--backend", "gpu")
    assert (
        "must be one of auto, triton, cpp, torch, reference, got 'gpu'" in capsys.readouterr().err
    )


def test_help_names_our_classes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning"])
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help"])
    shown = capsys.readouterr().out
    for name in ("spatial_ipa.SpatialIPAModule", "protein_cvae.EnsembleDataModule"):
        assert name in shown
    assert "--resume" in shown
    assert "The model, by class path:" in shown
