"""The `lightning` command end to end on a small simulated tissue: stages, DDP, resume, predict."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml
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

from spatial_ipa.data.read import read_slide
from spatial_ipa.encoder.frozen import load_encoder, save_encoder
from spatial_ipa.placing.load import load
from spatial_ipa.placing.options import PlacementOptions
from spatial_ipa.placing.placer import Placer
from spatial_ipa.placing.result import CellPrediction

MODEL = "model.init_args"
MINISETS = "data.init_args.minisets"
TINY = {
    f"{MODEL}.network.c_s": 16,
    f"{MODEL}.network.c_head": 8,
    f"{MODEL}.schedule.gate_steps": 6,
    f"{MODEL}.schedule.ramp_epochs": 1,
    f"{MODEL}.calibration_draws": 3,
    f"{MINISETS}.per_epoch": 8,
    f"{MINISETS}.val_per_slide": 2,
    f"{MINISETS}.size_min": 60,
    f"{MINISETS}.size_max": 80,
    f"{MINISETS}.num_candidates": 20,
    f"{MINISETS}.num_workers": 0,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
}
ENCODER = {
    "data.init_args.draws.steps_per_epoch": 2,
    "data.init_args.draws.spots": 64,
    "trainer.max_epochs": 1,
    "trainer.enable_progress_bar": "false",
}


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three simulated slides, dissociated cells and an encoder."""
    folder = tmp_path_factory.mktemp("tissue")
    command = [
        sys.executable, "-m", "spatial_ipa.data.simulation.files", "--out", str(folder / "tissue"),
        "--slides", "3", "--spots", "120", "--genes", "150", "--cells", "130",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    lightning(
        "fit",
        f"--config={ROOT / 'configs/spatial_ipa/encoder.yaml'}",
        *options(ENCODER),
        f"--data.init_args.train_slides=['{folder}/tissue/slides/slide_[01].h5ad']",
        f"--data.init_args.heldout_slides=['{folder}/tissue/slides/slide_2.h5ad']",
        f"--data.init_args.scrna=['{folder}/tissue/scrna.h5ad']",
        "--data.init_args.simulate=null",
        f"--model.init_args.output={folder}/encoder.pt",
        cwd=folder,
    )
    return folder


def fit_arguments(tissue: Path, out: Path, **extra: object) -> list[str]:
    """Arguments of a fit that exports ``out/model.ckpt``.  Keys use __ for dots."""
    values = {
        **TINY,
        "trainer.max_epochs": 3,
        "trainer.default_root_dir": out,
        "trainer.logger.init_args.save_dir": out,
        "data.init_args.encoder.path": tissue / "encoder.pt",
        "data.init_args.encoder.cache": tissue / "cache",
        "data.init_args.simulate": "null",
        f"{MODEL}.export": out / "model.ckpt",
    }
    values |= {key.replace("__", "."): value for key, value in extra.items()}
    return [
        f"--config={ROOT / 'configs/spatial_ipa/fit.yaml'}",
        f"--config={ROOT / 'configs/trainer/cpu.yaml'}",
        f"--data.init_args.train_slides=['{tissue}/tissue/slides/slide_[01].h5ad']",
        f"--data.init_args.val_slides=['{tissue}/tissue/slides/slide_2.h5ad']",
        *options(values),
    ]


def fit(tissue: Path, out: Path, **extra: object) -> Path:
    """Train; returns the exported checkpoint.  Keys use __ for dots."""
    out.mkdir(exist_ok=True)
    lightning("fit", *fit_arguments(tissue, out, **extra), cwd=out)
    return out / "model.ckpt"


@pytest.fixture(scope="module")
def trained(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted single-process run of three epochs."""
    out = tmp_path_factory.mktemp("single")
    fit(tissue, out)
    return out


def test_run_leaves_what_it_promises(trained: Path) -> None:
    checkpoint = torch.load(trained / "model.ckpt", weights_only=True)
    context = checkpoint["placement_context"]
    assert context["num_candidates"] == 20
    assert context["calibration"]["slides"] == ["slide_2"]
    assert context["reference"]["names"] == ["slide_0", "slide_1"]
    assert checkpoint["epoch"] >= 1  # never from inside the ramp
    assert list(trained.rglob("events.out.tfevents.*"))
    assert list(trained.rglob("config_fit.yaml"))
    assert not list(trained.rglob("*.partial"))


HEALTH = {
    *(
        f"{name}/{recycle}"
        for name in (
            "attention_recall30", "logit_std", "attention_entropy", "attention_vs_gate",
            "step_size", "attention_vs_distance", "reference_attention_recall30",
            "reference_logit_std", "reference_attention_vs_gate",
        )
        for recycle in range(5)
    ),
    *(
        f"{name}/{head}"
        for name in ("head_precision30", "head_recall30", "head_vs_true_distance")
        for head in range(4)
    ),
    "gate_precision30", "gate_recall30", "eigenvalue_ratio", "median_distance",
    "reference_gate_recall30", "nearest_cv", "nearest_cv_ratio", "nearest_q05",
    "nearest_q05_ratio",
}  # fmt: skip


SCORES = ("e_geo_own_graph", "e_geo_true_graph", "rw", "stress", "gate_kl")


def test_every_epoch_logs_scores_and_health(trained: Path) -> None:
    """The score that selects appears only once the walk weight has reached its cap."""
    (file,) = trained.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    every_epoch = {f"val/{name}" for name in SCORES}
    every_epoch |= {f"health/{name}" for name in HEALTH}
    assert every_epoch <= set(points)
    for tag in every_epoch:
        values = [point.value for point in points[tag]]
        assert len(values) == 3, tag
        assert np.isfinite(values).all(), tag
    assert len(points["val/e_geo"]) == 2
    assert len(points["gate_pretraining/kl"]) == 6
    selected = {point.step: point.value for point in points["val/e_geo_own_graph"]}
    assert all(selected[point.step] == point.value for point in points["val/e_geo"])


def test_same_seed_same_weights(tissue: Path, trained: Path, tmp_path: Path) -> None:
    fit(tissue, tmp_path / "again")
    assert_same(weights(last(trained)), weights(last(tmp_path / "again")), rtol=0, atol=0)


def test_resumed_equals_uninterrupted(tissue: Path, trained: Path, tmp_path: Path) -> None:
    """Stopped after two of three epochs and resumed: bit for bit the uninterrupted run."""
    fit(tissue, tmp_path / "first", trainer__limit_val_batches=1.0, **{"trainer__max_steps": 2})
    (checkpoint,) = (tmp_path / "first").rglob("last.ckpt")
    fit(tissue, tmp_path / "second", ckpt_path=checkpoint)
    assert_same(weights(last(trained)), weights(last(tmp_path / "second")), rtol=0, atol=0)


def test_killed_and_resumed_equals_uninterrupted(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    """SIGKILL in the last of three epochs; resumed weights and export are bit for bit equal.

    The resumed run gives another export: the checkpoint must not bring the first one's back.
    """
    out = tmp_path / "killed"
    checkpoint = killed_fit(fit_arguments(tissue, out), out, epoch=2)
    assert not (out / "model.ckpt").exists()
    fit(tissue, tmp_path / "resumed", ckpt_path=checkpoint)
    assert not (out / "model.ckpt").exists()
    assert_same(weights(last(trained)), weights(last(tmp_path / "resumed")), rtol=0, atol=0)
    whole, resumed = (
        torch.load(folder / "model.ckpt", weights_only=True)
        for folder in (trained, tmp_path / "resumed")
    )
    assert resumed["epoch"] == whole["epoch"]
    assert_same(whole["state_dict"], resumed["state_dict"], rtol=0, atol=0)


def test_a_checkpoint_in_mid_epoch_goes_on_exactly(tissue: Path, tmp_path: Path) -> None:
    """In the second of two epochs of four steps, with loader processes."""
    settings = {f"{MINISETS}.batch_size": 2, "trainer.max_epochs": 2, f"{MODEL}.export": "null"}
    whole = fit_arguments(tissue, tmp_path / "whole", **settings)
    (tmp_path / "whole").mkdir()
    lightning("fit", *whole, f"--trainer.callbacks+={EVERY_STEP}", cwd=tmp_path)
    (checkpoint,) = tmp_path.rglob("step=6.ckpt")
    settings |= {"ckpt_path": checkpoint, f"{MINISETS}.num_workers": 2}
    fit(tissue, tmp_path / "resumed", **settings)
    one, again = weights(last(tmp_path / "whole")), weights(last(tmp_path / "resumed"))
    assert_same(one, again, rtol=0, atol=0)


def test_two_ranks_go_on_exactly_in_mid_epoch(tissue: Path, tmp_path: Path) -> None:
    """After three of four steps; validation draws that the ranks cannot share equally."""
    settings = {
        f"{MINISETS}.batch_size": 2,
        f"{MINISETS}.val_per_slide": 3,
        f"{MODEL}.export": "null",
    }
    arguments = partial(fit_arguments, tissue)
    whole, resumed = resumed_on_two_ranks(arguments, "spatial_ipa", tmp_path, settings)
    assert torch.load(last(whole), weights_only=True)["global_step"] == 4
    assert_same(weights(last(whole)), weights(last(resumed)), rtol=0, atol=0)


def test_another_batch_size_is_refused_on_resume(tissue: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    checkpoint = killed_fit(fit_arguments(tissue, killed), killed, epoch=1)
    values = {"ckpt_path": checkpoint, f"{MINISETS}.batch_size": 4}
    done = lightning("fit", *fit_arguments(tissue, tmp_path, **values), cwd=tmp_path, check=False)
    assert_refused(done, "trained with 8 draws per step, now there are 4; resume it")


def test_resuming_with_other_epochs_is_refused(tissue: Path, trained: Path, tmp_path: Path) -> None:
    """The cosine decay has ended: beyond its end it would rise again."""
    values = {"trainer.max_epochs": 5, "ckpt_path": last(trained)}
    done = lightning("fit", *fit_arguments(tissue, tmp_path, **values), cwd=tmp_path, check=False)
    assert_refused(done, "decays over 3 epochs, and trainer.max_epochs is 5; resume it with 3")
    assert not (tmp_path / "model.ckpt").exists()


@pytest.mark.parametrize(("command", "prefix"), [("validate", "val"), ("test", "test")])
def test_a_checkpoint_can_be_scored(
    command: str, prefix: str, tissue: Path, trained: Path, tmp_path: Path
) -> None:
    """The score by which the exported checkpoint was selected comes out again."""
    arguments = fit_arguments(tissue, tmp_path, ckpt_path=trained / "model.ckpt")
    done = lightning(command, *arguments, cwd=tmp_path)
    (found,) = re.findall(rf"{prefix}/e_geo\W+([\d.]+)", done.stdout)
    callbacks = torch.load(trained / "model.ckpt", weights_only=True)["callbacks"]
    (best,) = (c for name, c in callbacks.items() if name.startswith("RampedModelCheckpoint"))
    assert float(found) == pytest.approx(float(best["best_model_score"]), rel=1e-5)
    assert not (tmp_path / "model.ckpt").exists()


def test_an_absent_encoder_is_trained_on_the_slides_given(tissue: Path, tmp_path: Path) -> None:
    """By the shipped configuration, which left alone would simulate a tissue."""
    config = yaml.safe_load((ROOT / "configs/spatial_ipa/encoder.yaml").read_text())
    config["trainer"]["max_epochs"] = 0
    assert config["data"]["init_args"]["simulate"] is not None
    (tmp_path / "encoder.yaml").write_text(yaml.safe_dump(config))
    values = {
        "data.init_args.encoder.path": tmp_path / "encoder.pt",
        "data.init_args.encoder.config": tmp_path / "encoder.yaml",
        "data.init_args.scrna": "[]",
        "trainer.max_epochs": 1,
        f"{MODEL}.schedule.ramp_epochs": 0,
    }
    assert fit(tissue, tmp_path / "own", **values).exists()
    split = load_encoder(tmp_path / "encoder.pt").split
    assert [s.name for s in split.train] == ["slide_0", "slide_1"]
    assert [s.name for s in split.heldout] == ["slide_2"]
    assert not list(tmp_path.rglob("scrna.h5ad"))  # nothing was simulated


def test_a_trial_run_exports_nothing(tissue: Path, tmp_path: Path) -> None:
    assert not fit(tissue, tmp_path / "trial", trainer__fast_dev_run="true").exists()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_of_another_encoder_is_refused(
    command: str, tissue: Path, trained: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(tissue / "encoder.pt")
    with torch.no_grad():
        encoder.encoder.out_scale.mul_(1.01)
    save_encoder(encoder, tmp_path / "other.pt")
    values = {"data.init_args.encoder.path": tmp_path / "other.pt"}
    arguments = fit_arguments(tissue, tmp_path, ckpt_path=last(trained), **values)
    done = lightning(command, *arguments, cwd=tmp_path, check=False)
    assert_refused(done, "trained on embeddings of another encoder")
    assert not (tmp_path / "model.ckpt").exists()


def test_two_processes_equal_one(tissue: Path, trained: Path, tmp_path: Path) -> None:
    """Two ranks of four minisets are one process of eight: same draws, same mean gradient."""
    fit(
        tissue,
        tmp_path / "ddp",
        trainer__devices=2,
        trainer__strategy="ddp",
        **{f"{MINISETS}.batch_size".replace(".", "__"): 4},
    )
    one, two = weights(last(trained)), weights(last(tmp_path / "ddp"))
    assert_same(one, two, rtol=2e-3, atol=2e-5)


def test_predict_writes_the_same_file_with_coordinates(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "placed.h5ad"
    lightning(
        "predict",
        f"--config={ROOT / 'configs/spatial_ipa/predict.yaml'}",
        f"--ckpt_path={trained / 'model.ckpt'}",
        f"--data.init_args.input={tissue / 'tissue/scrna.h5ad'}",
        f"--data.init_args.output={output}",
        "--data.init_args.placement.num_draws=3",
        "--trainer.accelerator=cpu",
        cwd=tmp_path,
    )
    before, after = ad.read_h5ad(tissue / "tissue/scrna.h5ad"), ad.read_h5ad(output)
    n = before.n_obs
    assert (before.X != after.X).nnz == 0
    assert list(before.obs_names) == list(after.obs_names)
    xy = after.obsm["X_spatial_ipa"]
    assert xy.shape == (n, 2)
    np.testing.assert_allclose(xy.mean(0), 0, atol=1e-4)
    assert (xy**2).sum(1).mean() == pytest.approx(1, abs=1e-3)
    assert (after.obs["spatial_ipa_uncertainty"] > 0).all()
    gate = after.obsp["spatial_ipa_connectivities"]
    assert gate.shape == (n, n)
    assert np.array_equal(np.diff(gate.indptr), np.full(n, 20))
    np.testing.assert_allclose(gate.sum(1), 1, atol=1e-5)
    assert gate.diagonal().sum() == 0
    assert after.uns["spatial_ipa"]["num_draws"] == 3
    assert (after.obs["spatial_ipa_radius"] > 0).all()
    assert after.obs["spatial_ipa_abstain"].dtype == bool
    assert after.obs["spatial_ipa_ambiguity"].between(0, 2).all()
    assert after.obs["spatial_ipa_multimodal"].between(0, 1).all()
    about = after.uns["spatial_ipa"]["calibration"]
    assert list(about["slides"]) == ["slide_2"]
    assert about["coverage"] == 0.9
    assert not list(tmp_path.glob(".*partial"))


def predicted(placer: Placer, data: ad.AnnData, path: Path) -> CellPrediction:
    data.write_h5ad(path)
    slide = read_slide(path, require_spatial=False)
    return placer.predict(slide, "scrna", PlacementOptions(num_draws=3))


def test_cells_without_counts_of_the_panel_change_nothing(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    """Rows without any count, or with counts on other genes only: not placed, and in no graph."""
    placer = load(trained / "model.ckpt")
    cells = ad.read_h5ad(tissue / "tissue/scrna.h5ad")
    before = predicted(placer, cells, tmp_path / "cells.h5ad")
    assert not before.empty.any()
    assert before.settings["seen_by_encoder"]
    assert before.settings["adapter"]
    n = cells.n_obs
    other = ad.AnnData(np.zeros((n, 1), np.float32), cells.obs, ad.AnnData(shape=(0, 1)).var)
    other.var_names = ["elsewhere"]
    wider = ad.concat([cells, other], axis=1)
    blank = wider[:5].copy()
    blank.obs_names = [f"blank_{i}" for i in range(5)]
    blank.X = np.zeros(blank.shape, np.float32)
    blank.X[3:, -1] = 7
    at = 40
    joined = ad.concat([wider[:at], blank, wider[at:]])
    after = predicted(placer, joined, tmp_path / "joined.h5ad")
    placed = ~after.empty
    assert np.flatnonzero(after.empty).tolist() == list(range(at, at + 5))
    np.testing.assert_array_equal(after.xy[placed], before.xy)
    np.testing.assert_array_equal(after.spread[placed], before.spread)
    for name, column in after.columns.items():
        np.testing.assert_array_equal(column[placed], before.columns[name])
        missing = column[after.empty]
        assert missing.all() if name == "abstain" else np.isnan(missing).all()
    assert np.isnan(after.xy[after.empty]).all()
    assert before.graph is not None
    assert after.graph is not None
    assert (after.graph[placed][:, placed] != before.graph).nnz == 0
    assert after.graph.nnz == before.graph.nnz
    assert not after.settings["seen_by_encoder"]


def test_cells_without_an_adapter_are_warned_about(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    placer = load(trained / "model.ckpt")
    without = replace(placer.encoder, adapter=None)
    placer = replace(placer, context=replace(placer.context, encoder=without))
    cells = ad.read_h5ad(tissue / "tissue/scrna.h5ad")
    with pytest.warns(UserWarning, match="trained without dissociated cells"):
        found = predicted(placer, cells, tmp_path / "cells.h5ad")
    assert not found.settings["adapter"]


BAD = {
    "unknown key": (["--model.init_args.colour=3"], "colour"),
    "wrong checkpoint": (["--ckpt_path=absent.ckpt"], "no such file: absent.ckpt"),
    "no such slide": (["--data.init_args.train_slides=['absent.h5ad']"], "absent.h5ad: no such"),
    "held-out slide in training": (
        ["--data.init_args.val_slides=['{tissue}/tissue/slides/slide_1.h5ad']"],
        "same expression",
    ),
    "training slide the encoder never saw": (
        [
            "--data.init_args.train_slides=['{tissue}/tissue/slides/slide_2.h5ad']",
            "--data.init_args.val_slides=[]",
        ],
        "held-out|not among the encoder's training slides",
    ),
    "encoder absent": (
        ["--data.init_args.encoder.path=absent.pt", "--data.init_args.encoder.config=null"],
        "encoder absent.pt does not exist",
    ),
    "encoder is another file": (
        ["--data.init_args.encoder.path={tissue}/tissue/scrna.h5ad"],
        "not an encoder file",
    ),
    "width": (
        ["--model.init_args.network.d_input=64"],
        "d_input is 64, but the embeddings are 128 wide",
    ),
    "graph": (["--model.init_args.graph=dense"], "graph"),
    "monotone on candidates": (
        ["--model.init_args.network.distance_term=monotone"],
        "monotone is for graph=true only",
    ),
    "option of the other form": (
        ["--model.init_args.network.block=frames"],
        "block=frames: for form=states only",
    ),
    "options that exclude each other": (
        [
            "--model.init_args.network.form=states",
            "--model.init_args.network.block=unshared",
            "--model.init_args.network.qk=false",
        ],
        "qk=False: not with block=unshared",
    ),
    "target of no gate": (
        ["--model.init_args.graph=candidates", f"--{MINISETS}.gate_walk=mixed"],
        "gate_walk=mixed teaches a gate; graph=candidates has none",
    ),
    "ramp": (["--model.init_args.schedule.ramp_epochs=-1"], "ramp_epochs must not be negative"),
    "weight": (
        ["--model.init_args.weights.procrustes=-1"],
        "weights.procrustes must be finite and not negative, got -1",
    ),
    "export is a folder": (["--model.init_args.export={tissue}"], "export must name a file"),
    "sizes": ([f"--{MINISETS}.size_min=90", f"--{MINISETS}.size_max=80"], "size_min <= size_max"),
    "noise": ([f"--{MINISETS}.augmentation.noise_h=-1"], "noise_h must not be negative"),
    "drop": ([f"--{MINISETS}.augmentation.drop_edges=1.0"], r"drop_edges must lie in \[0, 1\)"),
    "no rows": ([f"--{MINISETS}.num_rows=0"], "num_rows must be at least 1"),
    "no candidates": ([f"--{MINISETS}.num_candidates=0"], "num_candidates must be at least 1"),
    "draws": (["--model.init_args.calibration_draws=1"], "calibration_draws must be 0 or at least"),
    "no epochs": (["--trainer.max_epochs=-1"], "max_epochs must be set"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_by_name(case: str, tissue: Path, tmp_path: Path) -> None:
    arguments, message = BAD[case]
    values = {
        **TINY,
        "trainer.max_epochs": 1,
        "trainer.default_root_dir": tmp_path,
        "trainer.logger": "false",
        "data.init_args.encoder.path": tissue / "encoder.pt",
        "data.init_args.encoder.cache": tmp_path / "cache",
        "data.init_args.simulate": "null",
        f"{MODEL}.export": tmp_path / "model.ckpt",
    }
    done = lightning(
        "fit",
        f"--config={ROOT / 'configs/spatial_ipa/fit.yaml'}",
        f"--config={ROOT / 'configs/trainer/cpu.yaml'}",
        f"--data.init_args.train_slides=['{tissue}/tissue/slides/slide_[01].h5ad']",
        f"--data.init_args.val_slides=['{tissue}/tissue/slides/slide_2.h5ad']",
        *options(values),
        *(a.format(tissue=tissue) for a in arguments),
        cwd=tmp_path,
        check=False,
    )
    assert_refused(done, message)
    assert not (tmp_path / "model.ckpt").exists()


@pytest.mark.parametrize("case", ["export is a folder", "sizes", "no epochs"])
def test_settings_are_refused_before_an_encoder_is_trained(
    case: str, tissue: Path, tmp_path: Path
) -> None:
    arguments, message = BAD[case]
    extra = {"data.init_args.encoder.path": tmp_path / "own.pt"}
    command = fit_arguments(tissue, tmp_path, **extra)
    command += [a.format(tissue=tissue) for a in arguments]
    assert_refused(lightning("fit", *command, cwd=tmp_path, check=False), message)
    assert not (tmp_path / "own.pt").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("coverage=1.5", r"coverage must lie in \(0, 1\), got 1.5"),
        ("abstain_above=-1", "abstain_above must be positive or null"),
        ("radius=2", "radius"),
    ],
)
def test_bad_placement_is_refused_by_name(
    option: str, message: str, tissue: Path, trained: Path, tmp_path: Path
) -> None:
    done = lightning(
        "predict",
        f"--config={ROOT / 'configs/spatial_ipa/predict.yaml'}",
        f"--ckpt_path={trained / 'model.ckpt'}",
        f"--data.init_args.input={tissue / 'tissue/scrna.h5ad'}",
        f"--data.init_args.output={tmp_path / 'placed.h5ad'}",
        f"--data.init_args.placement.{option}",
        cwd=tmp_path,
        check=False,
    )
    assert_refused(done, message)
    assert not (tmp_path / "placed.h5ad").exists()
