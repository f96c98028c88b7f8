"""The public names of spatial_ipa: examples of their docstrings, and equality with the commands."""

from __future__ import annotations

import argparse
import doctest
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from lightning_runs import ROOT, lightning

import spatial_ipa
from spatial_ipa.commands import COMMANDS
from spatial_ipa.data.simulation.files import TissueSpec, write_tissue

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
    "--trainer.enable_progress_bar=false",
]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("door") / "tissue"
    write_tissue(TissueSpec(num_slides=4, spots_per_slide=80, num_genes=120, num_cells=90), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tissue: Path) -> Path:
    """The folder of a fit from AnnData objects."""
    slides = [ad.read_h5ad(path) for path in slide_paths(tissue)]
    out = tissue.parent / "fitted"
    before = slides[0].copy()
    spatial_ipa.fit(
        slides[:2], validation=slides[2], out=out, epochs=1, seed=3, overrides=OVERRIDES
    )
    assert slides[0].obs.equals(before.obs)
    assert set(slides[0].obsm) == set(before.obsm)
    return out


def slide_paths(tissue: Path) -> list[str]:
    return sorted(str(path) for path in (tissue / "slides").glob("*.h5ad"))


@pytest.fixture(scope="module")
def names(tissue: Path, trained: Path) -> dict[str, Any]:
    """What the examples refer to."""
    files = slide_paths(tissue)
    adata = ad.read_h5ad(files[3])
    model = spatial_ipa.load(trained / "spatial_ipa.ckpt")
    options = spatial_ipa.PlacementOptions(num_draws=2)
    return {
        "example_files": files,
        "example_adata": adata,
        "example_checkpoint": trained / "spatial_ipa.ckpt",
        "example_placed": model.place(adata, "st", options),
        "example_out": trained,
        "example_overrides": OVERRIDES,
    }


def examples() -> list[tuple[str, Any]]:
    found = []
    for name in spatial_ipa.__all__:
        value = getattr(spatial_ipa, name)
        if name == "pl":
            found += [(f"pl.{part}", getattr(value, part)) for part in value.__all__]
        else:
            found.append((name, value))
    return found


@pytest.mark.filterwarnings("ignore:.*trained without dissociated cells")
@pytest.mark.parametrize("name", [name for name, _ in examples()])
def test_examples_of_docstrings(name: str, names: dict[str, Any], tmp_path: Path) -> None:
    value = dict(examples())[name]
    tests = [
        test
        for test in doctest.DocTestFinder(recurse=True).find(value, name, globs=dict(names))
        if test.examples
    ]
    assert tests, f"{name} has no example"
    for test in tests:
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0


def test_fit_equals_lightning_fit_bit_for_bit(tissue: Path, trained: Path, tmp_path: Path) -> None:
    """The shipped configurations and the seeds, by hand."""
    configs = [f"--config={ROOT / 'configs/spatial_ipa' / n}.yaml" for n in ("fit", "laptop")]
    slides = [str(trained / "inputs" / f"slide_{i}.h5ad") for i in (0, 1)]
    val = [str(trained / "inputs/validation_0.h5ad")]
    lightning(
        "fit",
        f"--config={ROOT / 'configs/spatial_ipa/encoder.yaml'}",
        "--seed_everything=3",
        "--model.init_args.seed=3",
        "--data.init_args.draws.seed=3",
        f"--data.init_args.train_slides={slides}",
        f"--data.init_args.heldout_slides={val}",
        "--data.init_args.scrna=[]",
        "--data.init_args.simulate=null",
        "--model.init_args.output=encoder.pt",
        "--trainer.logger.init_args.save_dir=.",
        cwd=tmp_path,
    )
    lightning(
        "fit",
        *configs,
        "--seed_everything=3",
        "--data.init_args.minisets.seed=3",
        f"--data.init_args.train_slides={slides}",
        f"--data.init_args.val_slides={val}",
        "--data.init_args.encoder.path=encoder.pt",
        "--data.init_args.encoder.cache=cache",
        "--data.init_args.simulate=null",
        "--data.init_args.scrna=[]",
        "--model.init_args.export=model.ckpt",
        "--trainer.logger.init_args.save_dir=.",
        *OVERRIDES,
        "--trainer.max_epochs=1",
        cwd=tmp_path,
    )
    one, other = (
        torch.load(path, weights_only=True)
        for path in (trained / "spatial_ipa.ckpt", tmp_path / "model.ckpt")
    )
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert (
        spatial_ipa.load(trained / "spatial_ipa.ckpt").encoder.weights_hash
        == spatial_ipa.load(tmp_path / "model.ckpt").encoder.weights_hash
    )
    radii = [c["placement_context"]["calibration"]["scores"] for c in (one, other)]
    assert torch.equal(*radii)


def run_command(*words: str) -> None:
    (command,) = [c for c in COMMANDS if words[: len(c.path)] == c.path]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(words[len(command.path) :]))


def test_the_command_lightning_and_python_place_alike(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    path, checkpoint = slide_paths(tissue)[3], trained / "spatial_ipa.ckpt"
    adata = ad.read_h5ad(path)
    options = spatial_ipa.PlacementOptions(num_draws=3, num_hypotheses=2, seed=5)
    placed = spatial_ipa.load(checkpoint).place(adata, "st", options)
    run_command(
        "place", path, "-o", str(tmp_path / "short.h5ad"), "--ckpt", str(checkpoint),
        "--kind", "st", "--draws", "3", "--hypotheses", "2", "--seed", "5",
    )  # fmt: skip
    lightning(
        "predict",
        f"--config={ROOT / 'configs/spatial_ipa/predict.yaml'}",
        f"--ckpt_path={checkpoint}",
        f"--data.init_args.input={path}",
        f"--data.init_args.output={tmp_path / 'long.h5ad'}",
        "--data.init_args.kind=st",
        "--data.init_args.placement.num_draws=3",
        "--data.init_args.placement.num_hypotheses=2",
        "--data.init_args.placement.seed=5",
        "--trainer.accelerator=cpu",
        cwd=tmp_path,
    )
    for name in ("short", "long"):
        other = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        for layout in ("X_spatial_ipa", "X_spatial_ipa_1", "X_spatial_ipa_2"):
            np.testing.assert_array_equal(other.obsm[layout], placed.obsm[layout])
        for column in [c for c in placed.obs if c.startswith("spatial_ipa")]:
            np.testing.assert_array_equal(other.obs[column], placed.obs[column])
        graphs = [a.obsp["spatial_ipa_connectivities"] for a in (other, placed)]
        assert (graphs[0] != graphs[1]).nnz == 0
        key = other.uns["spatial_ipa_neighbors"]["connectivities_key"]
        assert key in other.obsp
        assert other.uns["spatial_ipa"]["model"] == placed.uns["spatial_ipa"]["model"]


def test_hypotheses_change_nothing_else(tissue: Path, trained: Path) -> None:
    model = spatial_ipa.load(trained / "spatial_ipa.ckpt")
    adata = ad.read_h5ad(slide_paths(tissue)[3])
    one, three = (
        model.place(adata, "st", spatial_ipa.PlacementOptions(num_draws=2, num_hypotheses=count))
        for count in (1, 3)
    )
    added = {f"X_spatial_ipa_{m}" for m in (1, 2, 3)}
    assert set(three.obsm) - set(one.obsm) == added
    assert set(three.obs) - set(one.obs) == {f"spatial_ipa_weight_{m}" for m in (1, 2, 3)}
    for name in ("X_spatial_ipa", "spatial"):
        np.testing.assert_array_equal(three.obsm[name], one.obsm[name])
    for column in one.obs:
        np.testing.assert_array_equal(three.obs[column], one.obs[column])
    assert three.uns["spatial_ipa"]["charts"]["regions"] in (1, 2, 3)
    assert "charts" not in one.uns["spatial_ipa"]


def test_the_input_is_changed_only_when_asked(tissue: Path, trained: Path, tmp_path: Path) -> None:
    model = spatial_ipa.load(trained / "spatial_ipa.ckpt")
    adata = ad.read_h5ad(slide_paths(tissue)[3])
    options = spatial_ipa.PlacementOptions(num_draws=2)
    first = model.place(adata, "st", options)
    assert not [name for name in (*adata.obs, *adata.obsm, *adata.obsp, *adata.uns)
                if name.removeprefix("X_").startswith("spatial_ipa")]  # fmt: skip
    again = model.place(adata, "st", options, copy=False)
    assert again is adata
    np.testing.assert_array_equal(adata.obsm["X_spatial_ipa"], first.obsm["X_spatial_ipa"])
    fewer = model.place(first, "st", spatial_ipa.PlacementOptions(num_draws=2, write_graph=False))
    assert "spatial_ipa_connectivities" not in fewer.obsp
    assert "spatial_ipa_connectivities" in first.obsp
    slide = spatial_ipa.Slide.from_anndata(adata, require_spatial=False)
    prediction = model.place(slide, "st", options)
    np.testing.assert_array_equal(prediction.xy, first.obsm["X_spatial_ipa"])


def test_evaluation_shows_the_trivial_methods_beside(
    tissue: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = slide_paths(tissue)
    run_command(
        "evaluate", "spatial", files[3], "--ckpt", str(trained / "spatial_ipa.ckpt"),
        "--train", *files[:2], "--draws", "2", "-o", str(tmp_path / "scores.csv"),
        "--report", str(tmp_path / "report"),
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "spatial_ipa" in printed
    assert (tmp_path / "report/health.md").read_text() in printed
    name = Path(files[3]).stem
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        f"focus_{name}.png", "health.json", "health.md", f"progression_{name}.png",
    ]  # fmt: skip
    scores = spatial_ipa.load(trained / "spatial_ipa.ckpt").evaluate(
        [ad.read_h5ad(files[3])], train=files[:2], num_draws=2
    )
    assert list(scores["method"]) == ["spatial_ipa", "knn", "ridge", "svr", "random"]
    assert np.isfinite(scores.drop(columns=["slide", "method"]).to_numpy()).all()
    text = (tmp_path / "scores.csv").read_text().splitlines()
    assert [float(v) for v in text[1].split(",")[2:]] == list(scores.iloc[0, 2:])


def test_a_checkpoint_of_earlier_settings_is_loaded(
    tissue: Path, trained: Path, tmp_path: Path
) -> None:
    """Class and settings as they were named before; in Python and on the command line."""
    content = torch.load(trained / "spatial_ipa.ckpt", weights_only=True)
    settings = content["hyper_parameters"]
    flat = {"graph": settings["graph"], "lr": 5e-4, "rw_cap": 0.3, **settings["network"]}
    flat["_class_path"] = "spatial_ipa.module.SpatialIPAModule"
    torch.save(content | {"hyper_parameters": flat}, tmp_path / "old.ckpt")
    old, new = (spatial_ipa.load(p) for p in (tmp_path / "old.ckpt", trained / "spatial_ipa.ckpt"))
    assert old.weights_hash() == new.weights_hash()
    assert old.network.settings == new.network.settings
    file = slide_paths(tissue)[3]
    lightning(
        "predict",
        f"--config={ROOT / 'configs/spatial_ipa/predict.yaml'}",
        f"--ckpt_path={tmp_path / 'old.ckpt'}",
        f"--data.init_args.input={file}",
        "--data.init_args.output=placed.h5ad",
        "--data.init_args.kind=st",
        "--data.init_args.placement.num_draws=2",
        "--trainer.accelerator=cpu",
        cwd=tmp_path,
    )
    placed = new.place(file, "st", spatial_ipa.PlacementOptions(num_draws=2))
    np.testing.assert_array_equal(
        ad.read_h5ad(tmp_path / "placed.h5ad").obsm["X_spatial_ipa"], placed.obsm["X_spatial_ipa"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyper_parameters": {"graph": "true", "network": {"c_s": 16}}}, "places no cells"),
        ({"hyper_parameters": {"colour": 1}}, "no settings of a network; train it anew"),
        ({"placement_context": None}, "damaged, or of another version"),
        ({"state_dict": {}}, "damaged, or of another version"),
    ],
)
def test_other_checkpoints_are_refused_by_name(
    change: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    content = torch.load(trained / "spatial_ipa.ckpt", weights_only=True)
    torch.save(content | change, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=message):
        spatial_ipa.load(tmp_path / "bad.ckpt")


def test_files_that_are_no_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: absent\.ckpt"):
        spatial_ipa.load("absent.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint of spatial_ipa"):
        spatial_ipa.load(trained / "encoder.pt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="damaged, or no checkpoint"):
        spatial_ipa.load(tmp_path / "text.ckpt")


def test_a_model_without_an_encoder_embeds_nothing(trained: Path, tissue: Path) -> None:
    from dataclasses import replace

    model = spatial_ipa.load(trained / "spatial_ipa.ckpt")
    bare = replace(model, context=replace(model.context, encoder=None))
    with pytest.raises(ValueError, match="holds no encoder"):
        bare.place(slide_paths(tissue)[3])
