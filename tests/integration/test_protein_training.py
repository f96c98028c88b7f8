"""`lightning fit` of protein_cvae on simulated ensembles: files, resume, kill, DDP, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_runs import (
    EVERY_STEP,
    ROOT,
    assert_refused,
    assert_same,
    killed_fit,
    last,
    lightning,
    options,
    resumed_on_two_ranks,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MODEL = "model.init_args"
NETWORK = f"{MODEL}.network"
DATA = "data.init_args"
CONFIGS = ("configs/protein_cvae/fit.yaml", "configs/trainer/cpu.yaml")
TINY = {
    f"{NETWORK}.width": 32,
    f"{NETWORK}.layers": 1,
    f"{NETWORK}.condition_layers": 1,
    f"{NETWORK}.heads": 4,
    f"{NETWORK}.feed_forward": 64,
    f"{NETWORK}.dropout": 0.1,
    f"{NETWORK}.d_global": 8,
    f"{NETWORK}.hidden": 16,
    f"{NETWORK}.decoder_layers": 1,
    f"{NETWORK}.chain_neighbors": 4,
    f"{NETWORK}.spatial_neighbors": 6,
    f"{DATA}.draws.per_epoch": 8,
    f"{DATA}.draws.batch_proteins": 4,
    f"{DATA}.draws.models_per_protein": 2,
    f"{DATA}.num_workers": 0,
    f"{DATA}.simulate.num_proteins": 3,
    f"{DATA}.simulate.num_models": 6,
    f"{DATA}.simulate.min_length": 24,
    f"{DATA}.simulate.max_length": 30,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
}


def fit_arguments(out: Path, **extra: object) -> list[str]:
    """Arguments of a fit that exports ``out/model.ckpt``.  Keys use __ for dots."""
    values = {
        **TINY,
        "trainer.max_epochs": 3,
        "trainer.default_root_dir": out,
        "trainer.logger.init_args.save_dir": out,
        f"{MODEL}.export": out / "model.ckpt",
    }
    values |= {key.replace("__", "."): value for key, value in extra.items()}
    return [
        *(f"--config={ROOT / name}" for name in CONFIGS),
        *options(values),
    ]


def fit(out: Path, **extra: object) -> Path:
    out.mkdir(exist_ok=True)
    lightning("fit", *fit_arguments(out, **extra), cwd=out)
    return out / "model.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted single-process run of three epochs, with all its steps."""
    out = tmp_path_factory.mktemp("single")
    lightning("fit", *fit_arguments(out), f"--trainer.callbacks+={EVERY_STEP}", cwd=out)
    return out


def test_run_leaves_what_it_promises(trained: Path) -> None:
    checkpoint = torch.load(trained / "model.ckpt", weights_only=True)
    assert checkpoint["epoch"] >= 0
    assert set(checkpoint["protein_cvae_data"]) == {"split", "embedder"}
    assert list(trained.rglob("events.out.tfevents.*"))
    assert list(trained.rglob("config_fit.yaml"))
    assert not list(trained.rglob("*.partial"))


def test_same_seed_same_weights(trained: Path, tmp_path: Path) -> None:
    fit(tmp_path / "again")
    assert_same(weights(last(trained)), weights(last(tmp_path / "again")), rtol=0, atol=0)


def test_killed_and_resumed_equals_uninterrupted(trained: Path, tmp_path: Path) -> None:
    """SIGKILL in the second of three epochs; resumed weights are bit for bit equal."""
    out = tmp_path / "killed"
    checkpoint = killed_fit(fit_arguments(out), out, epoch=1)
    assert not (out / "model.ckpt").exists()
    fit(tmp_path / "resumed", ckpt_path=checkpoint)
    assert_same(weights(last(trained)), weights(last(tmp_path / "resumed")), rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_checkpoint_in_mid_epoch_goes_on_exactly(
    trained: Path, tmp_path: Path, workers: int
) -> None:
    """After three of six steps, in the middle of the second of three epochs; dropout is on."""
    (checkpoint,) = trained.rglob("step=3.ckpt")
    settings = {"ckpt_path": checkpoint, f"{DATA}.num_workers".replace(".", "__"): workers}
    fit(tmp_path / "resumed", **settings)
    assert_same(weights(last(trained)), weights(last(tmp_path / "resumed")), rtol=0, atol=0)


def test_two_ranks_go_on_exactly_in_mid_epoch(tmp_path: Path) -> None:
    """After three of four steps, each rank with masks of dropout of its own.

    The last epoch is not the best one, so the export and last.ckpt are of different epochs.
    """
    # A learning rate that spoils the second epoch.
    hasty = {"model.init_args.optimizer.lr": 0.3, "model.init_args.optimizer.lr_final": 0.3}
    settings = {f"{DATA}.draws.batch_proteins": 2} | hasty
    whole, resumed = resumed_on_two_ranks(fit_arguments, "protein_cvae", tmp_path, settings)
    assert torch.load(last(whole), weights_only=True)["global_step"] == 4
    assert torch.load(whole / "model.ckpt", weights_only=True)["global_step"] == 2
    for of in (last, lambda folder: folder / "model.ckpt"):
        assert_same(weights(of(whole)), weights(of(resumed)), rtol=0, atol=0)


def test_resuming_brings_the_loss_weights_and_refuses_another_batch(tmp_path: Path) -> None:
    """More proteins in a step, and as many more in an epoch: the steps alone would not tell."""
    killed = tmp_path / "killed"
    values = {
        "ckpt_path": killed_fit(fit_arguments(killed), killed, epoch=1),
        f"{DATA}.draws.batch_proteins".replace(".", "__"): 2,
        f"{DATA}.draws.per_epoch".replace(".", "__"): 4,
        f"{MODEL}.weights.dihedral".replace(".", "__"): 2.5,
        f"{MODEL}.kl.cycles".replace(".", "__"): 3,
    }  # fmt: skip
    done = lightning("fit", *fit_arguments(tmp_path, **values), cwd=tmp_path, check=False)
    assert "weights.dihedral: 2.5 -> 0.5" in done.stderr
    assert "kl.cycles: 3 -> 4" in done.stderr
    assert_refused(done, "trained with 8 draws per epoch, now there are 4; resume it")


def test_resuming_with_other_epochs_is_refused(trained: Path, tmp_path: Path) -> None:
    """Learning rate, loss weights and the KL's cycle would start again in the middle."""
    values = {"trainer__max_epochs": 5, "ckpt_path": last(trained)}
    done = lightning("fit", *fit_arguments(tmp_path, **values), cwd=tmp_path, check=False)
    assert_refused(done, "run over 6 steps, now there are 10; resume it with the epochs")
    assert not (tmp_path / "model.ckpt").exists()


def first_moments(path: Path) -> torch.Tensor:
    """Adam's running mean of the gradients, all in one; after one step a tenth of the gradient."""
    (optimizer,) = torch.load(path, weights_only=True)["optimizer_states"]
    return torch.cat([state["exp_avg"].flatten() for state in optimizer["state"].values()])


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Two ranks of two proteins are one process of four: same draws, noise and mean gradient.

    Without dropout, whose masks belong to a process.  Gradients are compared, not weights: Adam's
    first steps are of one length whatever the gradient.  At the first step the annealed KL, whose
    free bits are counted per process, has weight 0.
    """
    settings = {
        f"{NETWORK}.dropout".replace(".", "__"): 0.0,
        "trainer__max_epochs": 1,
        "trainer__limit_train_batches": 1,
    }
    fit(tmp_path / "one", **settings)
    settings |= {f"{DATA}.draws.batch_proteins".replace(".", "__"): 2}
    fit(tmp_path / "two", trainer__devices=2, trainer__strategy="ddp", **settings)
    one, two = (first_moments(last(tmp_path / name)) for name in ("one", "two"))
    assert float(one.norm()) > 0
    assert float((one - two).norm() / one.norm()) < 1e-4


def validated(out: Path, checkpoint: Path, **settings: object) -> dict[str, float]:
    """What ``lightning validate`` logs, one item per batch."""
    out.mkdir()
    values = TINY | {
        f"{DATA}.draws.batch_proteins": 1,
        f"{DATA}.draws.models_per_protein": 1,
        f"{DATA}.split.held_out_fraction": 0.5,
        f"{DATA}.split.families_held_out": "[simulated_0_2]",
        "trainer.default_root_dir": out,
        "trainer.logger.init_args.save_dir": out,
        "trainer.callbacks": "null",
    }
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    configs = [f"--config={ROOT / name}" for name in CONFIGS]
    lightning("validate", *configs, f"--ckpt_path={checkpoint}", *options(values), cwd=out)
    (events,) = out.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events.parent)).Reload()
    keys = [key for key in found.Tags()["scalars"] if key.startswith("val")]
    return {key: found.Scalars(key)[-1].value for key in keys}


def test_two_ranks_log_the_validation_of_one(tmp_path: Path) -> None:
    """Sums over ranks, fillers not counted: 3 items of known proteins and 5 of an unseen one."""
    held_out = {
        f"{DATA}.split.held_out_fraction".replace(".", "__"): 0.5,
        f"{DATA}.split.families_held_out".replace(".", "__"): "[simulated_0_2]",
    }
    checkpoint = fit(tmp_path / "fit", trainer__max_epochs=1, **held_out)
    one = validated(tmp_path / "one", checkpoint)
    two = validated(tmp_path / "two", checkpoint, trainer__devices=2, trainer__strategy="ddp")
    assert {
        "val/loss",
        "val_unseen/rmsd",
        "val/active_global",
        "val/kl_turn",
        "val_unseen/coil",
    } <= set(one)
    assert two == pytest.approx(one, rel=1e-5, abs=1e-7)


BAD = {
    "unknown key": ([f"--{MODEL}.colour=3"], "colour"),
    "wrong checkpoint": (["--ckpt_path=absent.ckpt"], "no such file: absent.ckpt"),
    "no such file": (
        [f"--{DATA}.simulate=null", f"--{DATA}.sources.structures=['absent.pdb']"],
        "absent.pdb",
    ),
    "half precision": (["--trainer.precision=bf16-mixed"], "precision must be 32-true or 64-true"),
    "nothing given": ([f"--{DATA}.simulate=null"], "structures"),
    "not a structure": (
        [f"--{DATA}.simulate=null", f"--{DATA}.sources.structures=['{{folder}}/text.pdb']"],
        "text.pdb",
    ),
    "global latent too small": ([f"--{NETWORK}.d_global=0"], "d_global"),
    "latents of before": ([f"--{NETWORK}.d_local=256"], "d_local"),
    "noise": ([f"--{MODEL}.rate.low=0"], "rate.low and rate.high"),
    "heads": ([f"--{NETWORK}.heads=5"], "divisible by heads"),
    "design": ([f"--{NETWORK}.sequence_design=both"], "sequence_design"),
    "embedding width": ([f"--{NETWORK}.d_embedding=64"], "d_embedding"),
    "share": ([f"--{DATA}.draws.template_dropout=1.5"], "template_dropout must lie in"),
    "held out": ([f"--{DATA}.split.held_out_fraction=-0.1"], "held_out_fraction must lie in"),
    "count": ([f"--{DATA}.draws.batch_proteins=0"], "batch_proteins must be at least 1"),
    "unknown family": ([f"--{DATA}.split.families_held_out=['1abc']"], "1abc"),
    "models": ([f"--{DATA}.sources.min_models=50"], "min_models 50"),
    "export is a folder": ([f"--{MODEL}.export={{folder}}"], "export must name a file"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_by_name(case: str, tmp_path: Path) -> None:
    (tmp_path / "text.pdb").write_text("not a structure\n")
    arguments, message = BAD[case]
    done = lightning(
        "fit",
        *fit_arguments(tmp_path, trainer__logger="false"),
        *(a.format(folder=tmp_path) for a in arguments),
        cwd=tmp_path,
        check=False,
    )
    assert_refused(done, message)
    assert not (tmp_path / "model.ckpt").exists()
