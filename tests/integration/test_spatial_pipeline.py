"""`python -m spatial_ipa.pipeline` end to end on a tiny tissue."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml

from spatial_ipa.data.read import read_slides
from spatial_ipa.data.simulation.files import TissueSpec, write_tissue
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.frozen import load_encoder
from spatial_ipa.evaluation.scorer import COLUMNS
from spatial_ipa.pipeline import __main__ as pipeline
from spatial_ipa.pipeline.stages import run_once, stage_content

ROOT = Path(__file__).resolve().parents[2]
TISSUE = TissueSpec(num_slides=4, spots_per_slide=80, num_genes=120, num_cells=90)
OVERRIDES = [
    "--model.init_args.network.c_s=16",
    "--model.init_args.network.c_head=8",
    "--model.init_args.schedule.gate_steps=3",
    "--model.init_args.schedule.ramp_epochs=0",
    "--model.init_args.calibration_draws=2",
    "--data.init_args.minisets.per_epoch=4",
    "--data.init_args.minisets.val_per_slide=2",
    "--data.init_args.minisets.size_min=40",
    "--data.init_args.minisets.size_max=60",
    "--data.init_args.minisets.num_candidates=15",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
]


def run_pipeline(cwd: Path, *arguments: str) -> str:
    """Run it in ``cwd`` with ``--out out``; returns what it printed."""
    configs = [str(ROOT / "configs" / "spatial_ipa" / f"{name}.yaml") for name in ("fit", "laptop")]
    command = [
        sys.executable, "-m", "spatial_ipa.pipeline", "--out=out", "--num_draws=2", "--seed=3",
        f"--encoder_config={ROOT / 'configs/spatial_ipa/encoder.yaml'}", f"--configs={configs}",
        f"--overrides={OVERRIDES}", *arguments,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def simulated(cwd: Path, *arguments: str) -> str:
    """With so few counts per cell that cell 27 has none."""
    sizes = {"num_slides": 4, "spots_per_slide": 80, "num_genes": 120, "num_cells": 90}
    sizes["cell_depth"] = 60
    tissue = (f"--tissue.{name}={value}" for name, value in sizes.items())
    return run_pipeline(cwd, *tissue, *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the pipeline ran once, on simulated tissue."""
    cwd = tmp_path_factory.mktemp("pipeline")
    simulated(cwd)
    return cwd


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("given") / "tissue"
    write_tissue(TISSUE, written)
    return written


def test_scores_figures_and_predictions_are_written(folder: Path) -> None:
    out = folder / "out"
    rows = json.loads((out / "scores.json").read_text())
    methods = [row["method"] for row in rows if row["slide"] == "slide_3"]
    assert methods == [
        "spatial_ipa, whole", "spatial_ipa, stitched", "knn", "ridge", "svr", "random",
    ]  # fmt: skip
    assert [row["method"] for row in rows if row["slide"] == "scrna"] == ["spatial_ipa"]
    assert all(np.isfinite(row[column]) for row in rows for column in COLUMNS)
    with (out / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["e_geo"]) for row in table] == [row["e_geo"] for row in rows]
    assert (out / "scores.md").read_text().count("\n") == 2 + len(rows)
    for name, spots in (("slide_3", 80), ("scrna", 90)):
        for kind in ("layout", "uncertainty"):
            assert (out / f"{kind}_{name}.png").read_bytes().startswith(b"\x89PNG")
        predicted = ad.read_h5ad(out / f"predicted_{name}.h5ad")
        assert predicted.obsm["X_spatial_ipa"].shape == (spots, 2)
        empty = np.asarray(predicted.obs["spatial_ipa_empty"])
        assert np.flatnonzero(empty).tolist() == ([27] if name == "scrna" else [])
        assert np.isfinite(predicted.obsm["X_spatial_ipa"][~empty]).all()
        assert (predicted.obs["spatial_ipa_radius"][~empty] > 0).all()


def test_attention_and_progression_are_reported(folder: Path) -> None:
    out = folder / "out"
    report = json.loads((out / "health.json").read_text())
    assert list(report) == ["slide_3"]
    heads = {f"head_recall30/{head}" for head in range(4)}
    assert heads | {"attention_vs_distance/4", "nearest_cv_ratio"} <= set(report["slide_3"])
    assert all(np.isfinite(value) for value in report["slide_3"].values())
    assert "| slide_3 | 3 |" in (out / "health.md").read_text()
    for kind in ("focus", "progression"):
        assert (out / f"{kind}_slide_3.png").read_bytes().startswith(b"\x89PNG")


def test_identifiability_is_reported(folder: Path) -> None:
    out = folder / "out"
    report = json.loads((out / "identifiability.json").read_text())
    assert {name: r["role"] for name, r in report["slides"].items()} == {
        "slide_2": "validation", "slide_3": "held out",
    }  # fmt: skip
    assert set(report["radii"]) == {"slide_3", "scrna"}
    assert all(0 <= radii["coverage"] <= 1 for radii in report["radii"].values())
    for name in ("slide_2", "slide_3"):
        assert (out / f"identifiability_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| slide_3 | held out |" in (out / "identifiability.md").read_text()


def test_nothing_is_written_elsewhere(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert not list(folder.rglob("*.partial"))


def test_the_seed_reaches_the_encoder(folder: Path) -> None:
    config = yaml.safe_load((folder / "out/encoder/version_0/config_fit.yaml").read_text())
    assert config["seed_everything"] == 3
    assert config["model"]["init_args"]["seed"] == 3
    assert config["data"]["init_args"]["draws"]["seed"] == 3


def test_unchanged_stages_are_reused(folder: Path) -> None:
    out = folder / "out"
    made = [out / "encoder.pt", out / "spatial_ipa.ckpt", out / "tissue/slides/slide_0.h5ad"]
    before = [path.stat().st_mtime_ns for path in made]
    scores = (out / "scores.json").read_text()
    assert simulated(folder).count("reused") == 2
    assert [path.stat().st_mtime_ns for path in made] == before
    assert (out / "scores.json").read_text() == scores


def test_large_slides_are_scored_on_a_sample_and_placed_whole(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    printed = simulated(tmp_path, "--max_scored=60")
    assert "slide_3: scored on 60 random spots of 80" in printed
    rows = json.loads((tmp_path / "out/scores.json").read_text())
    assert [row["method"] for row in rows if row["slide"] == "slide_3"] == [
        "spatial_ipa, stitched", "knn", "ridge", "svr", "random",
    ]  # fmt: skip
    assert all(np.isfinite(row[column]) for row in rows for column in COLUMNS)
    whole = {
        (r["slide"], r["method"]): r for r in json.loads((folder / "out/scores.json").read_text())
    }
    for row in rows:
        assert row["spearman"] != whole[row["slide"], row["method"]]["spearman"]
    predicted = ad.read_h5ad(tmp_path / "out/predicted_slide_3.h5ad")
    assert np.isfinite(predicted.obsm["X_spatial_ipa"]).all()


def write_own(data: ad.AnnData, path: Path, *, raw: bool = False) -> None:
    """As files come: counts in a layer or in raw, names in a column, coordinates elsewhere."""
    data.var["feature_name" if raw else "symbol"] = data.var_names.to_numpy()
    data.var_names = [f"{'cell' if raw else 'spot'}-{i}" for i in range(data.n_vars)]
    if raw:
        data.raw = data
    else:
        data.layers["counts"] = data.X
    data.X = np.random.default_rng(0).normal(size=data.shape).astype(np.float32)
    if "spatial" in data.obsm:
        data.obsm["xy"] = data.obsm.pop("spatial")
    data.write_h5ad(path)


def test_own_slides_with_an_empty_spot_layers_and_patterns(tissue: Path, tmp_path: Path) -> None:
    held_out = ad.read_h5ad(tissue / "slides/slide_3.h5ad")
    counts = held_out.X.tolil()
    counts[5] = 0
    held_out.X = counts.tocsr()
    write_own(held_out, tmp_path / "held.h5ad")
    for name in ("slide_0", "slide_1"):
        write_own(ad.read_h5ad(tissue / f"slides/{name}.h5ad"), tmp_path / f"{name}.h5ad")
    write_own(ad.read_h5ad(tissue / "scrna.h5ad"), tmp_path / "cells_1.h5ad", raw=True)
    run_pipeline(
        tmp_path,
        "--slides=['slide_[01].h5ad']",
        "--holdout=['held.h5ad']",
        "--scrna=['cells_*.h5ad']",
        "--keys.layer=counts",
        "--keys.gene_key=symbol",
        "--scrna_keys.layer=raw.X",
        "--scrna_keys.gene_key=feature_name",
        "--keys.spatial_key=xy",
    )
    predicted = ad.read_h5ad(tmp_path / "out/predicted_held.h5ad")
    assert np.flatnonzero(predicted.obs["spatial_ipa_empty"]).tolist() == [5]
    assert predicted.obsm["X_spatial_ipa"].shape == (80, 2)
    # Without validation slides there is nothing to calibrate radii on, and it is said so.
    assert "spatial_ipa_radius" not in predicted.obs
    assert "spatial_ipa_abstain" not in predicted.obs
    assert "spatial_ipa_ambiguity" in predicted.obs
    reason = predicted.uns["spatial_ipa"]["calibration"]["missing"]
    assert "without validation slides" in reason
    assert "No error radii" in (tmp_path / "out/identifiability.md").read_text()
    assert (tmp_path / "out/predicted_cells_1.h5ad").exists()
    split = load_encoder(tmp_path / "out/encoder.pt").split
    # The identities are those of counts and positions where they used to be: both were found.
    simulated_ones = read_slides([str(tissue / f"slides/slide_{i}.h5ad") for i in (0, 1)])
    assert split.train == Split.declare(simulated_ones, []).train
    assert [slide.name for slide in split.heldout] == ["held"]


def test_the_same_slides_in_other_roles_are_other_inputs(tissue: Path, tmp_path: Path) -> None:
    """A model trained on slide 1 must not be reused where slide 1 is held out."""
    a, b, c, d = read_slides([str(tissue / "slides")])
    roles = [
        ([a, b], [], [c], [d]),
        ([a], [], [b, c], [d]),
        ([a], [b], [c], [d]),
        ([a, b], [c], [d], []),
        ([a, b], [], [c, d], []),
    ]
    output, made = tmp_path / "model", []

    def make() -> None:
        output.write_text("model")
        made.append(output)

    for number, role in enumerate(roles, 1):
        for _ in range(2):
            run_once(output, [stage_content(*role)], make)
        assert len(made) == number


def complain(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    monkeypatch.delenv("EDGEWISE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        pipeline.main()
    assert stop.value.code == 2


def test_predictions_that_would_overwrite_each_other_are_refused(
    tissue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(tissue / "scrna.h5ad", tmp_path / name / "cells.h5ad")
    complain(
        monkeypatch,
        f"--slides=['{tissue}/slides/slide_0.h5ad']",
        f"--holdout=['{tissue}/slides/slide_1.h5ad']",
        f"--scrna=['{tmp_path}/*/cells.h5ad']",
        f"--out={tmp_path / 'out'}",
    )
    error = capsys.readouterr().err
    assert "error: validation, holdout and scrna hold more than one file named cells" in error
    assert "Traceback" not in error
    shutil.copy(tissue / "slides/slide_1.h5ad", tmp_path / "one/s.h5ad")
    shutil.copy(tissue / "slides/slide_2.h5ad", tmp_path / "two/s.h5ad")
    complain(
        monkeypatch,
        f"--slides=['{tissue}/slides/slide_0.h5ad']",
        f"--validation=['{tmp_path}/one/s.h5ad']",
        f"--holdout=['{tmp_path}/two/s.h5ad']",
        f"--out={tmp_path / 'out'}",
    )
    assert "hold more than one file named s;" in capsys.readouterr().err


def test_user_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out={tmp_path / 'out'}"
    complain(monkeypatch, "--slides=a.h5ad", out)
    assert "error: a.h5ad: no such file" in capsys.readouterr().err
    complain(monkeypatch, "--slides=['absent.h5ad']", "--holdout=['b.h5ad']", out)
    assert "error: absent.h5ad: no such file" in capsys.readouterr().err
    complain(monkeypatch, "--tissue.num_slides=2", out)
    assert "error: tissue.num_slides must be at least 3" in capsys.readouterr().err
    (tmp_path / "file").touch()
    complain(monkeypatch, f"--out={tmp_path / 'file'}")
    assert "is a file; name a folder" in capsys.readouterr().err
    complain(monkeypatch, "--encoder_config=absent.yaml", "--tissue.spots_per_slide=60", out)
    assert "error: configuration absent.yaml: no such file" in capsys.readouterr().err


def test_one_section_trains_and_nothing_is_scored(tissue: Path, tmp_path: Path) -> None:
    """One path without brackets, and no slide held out."""
    printed = run_pipeline(tmp_path, f"--slides={tissue / 'slides/slide_0.h5ad'}")
    assert "nothing is held out (holdout), so nothing will be scored" in printed
    assert "slide_0 (training): 80 rows, 120 genes, counts" in printed
    assert (tmp_path / "out/spatial_ipa.ckpt").exists()
    assert not list((tmp_path / "out").glob("scores.*"))


def test_sections_of_one_file_train_and_are_scored_apart(tissue: Path, tmp_path: Path) -> None:
    """Two sections in each of two files; what was read stands in a file beside the scores."""
    slides = [ad.read_h5ad(tissue / f"slides/slide_{i}.h5ad") for i in range(4)]
    for name, pair in (("train", slides[:2]), ("held", slides[2:])):
        joined = ad.concat({"a": pair[0], "b": pair[1]}, label="batch", index_unique="-")
        joined.write_h5ad(tmp_path / f"{name}.h5ad")
    run_pipeline(tmp_path, "--slides=train.h5ad", "--holdout=held.h5ad", "--keys.section_key=batch")
    out = tmp_path / "out"
    read = json.loads((out / "slides.json").read_text())
    assert [(entry["name"], entry["role"], entry["rows"]) for entry in read] == [
        ("train/a", "training", 80), ("train/b", "training", 80),
        ("held/a", "held out", 80), ("held/b", "held out", 80),
    ]  # fmt: skip
    rows = json.loads((out / "scores.json").read_text())
    assert {row["slide"] for row in rows} == {"held/a", "held/b"}
    placed = [ad.read_h5ad(out / f"predicted_held_{name}.h5ad") for name in "ab"]
    empty = [data.obs["spatial_ipa_empty"].to_numpy() for data in placed]
    np.testing.assert_array_equal(empty[0], np.arange(160) >= 80)
    np.testing.assert_array_equal(empty[1], ~empty[0])
    assert np.isfinite(placed[1].obsm["X_spatial_ipa"][80:]).all()
