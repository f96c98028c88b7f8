"""The encoder's fit: repeatable, resumable, selective."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import lightning.pytorch as pl
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ipa.data.expression import Transform
from spatial_ipa.data.panels import reindex
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.simulation.files import TissuePaths, TissueSpec, write_tissue
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import load_encoder
from spatial_ipa.encoder.losses import domain_mixing
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import (
    DrawSettings,
    EncoderWeights,
    GeneSettings,
    StartSettings,
)
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> TissuePaths:
    spec = TissueSpec(num_slides=4, spots_per_slide=120, num_genes=150, num_cells=80)
    return write_tissue(spec, tmp_path_factory.mktemp("tissue"))


EIGENMAPS, SPATIAL = StartSettings("eigenmaps"), StartSettings("spatial")


def make_data(
    tissue: TissuePaths,
    scrna: bool = False,
    select_on: str | None = None,
    seed: int = 0,
    transform: Transform = "log",
) -> EncoderDataModule:
    return EncoderDataModule(
        [str(p) for p in tissue.slides[:3]],
        [str(tissue.slides[3])],
        [str(tissue.scrna)] if scrna else [],
        genes=GeneSettings(transform=transform),
        draws=DrawSettings(select_on=select_on, steps_per_epoch=3, spots=64, seed=seed),
    )


def fit(
    module: EncoderModule,
    data: EncoderDataModule,
    epochs: int,
    checkpoints: Path | None = None,
    resume: Path | None = None,
) -> None:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=checkpoints is not None,
        callbacks=[] if checkpoints is None else [ModelCheckpoint(checkpoints, "{epoch}")],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


def test_fit_writes_an_encoder_that_knows_its_split(tissue: TissuePaths, tmp_path: Path) -> None:
    """All terms on, with scRNA-seq; H of every slide has unit variance."""
    module = EncoderModule(
        str(tmp_path / "e.pt"),
        SPATIAL,
        weights=EncoderWeights(stress=0.1, mmd=1.0, adversary=0.1),
        first_layer_lr=1e-5,
    )
    fit(module, make_data(tissue, scrna=True), 1)
    encoder = load_encoder(tmp_path / "e.pt")
    slides = read_slides([str(p) for p in tissue.slides])
    h = [encoder.embed(s, "st") for s in slides]
    assert [x.var(axis=0).mean() for x in h] == pytest.approx([1] * 4, rel=1e-5)
    check_split(encoder.split, slides[:3], slides[3:])
    with pytest.raises(ValueError, match="training slides"):
        check_split(encoder.split, slides[:2], slides[2:3])
    sample = read_slides([str(tissue.scrna)], require_spatial=False)[0]
    assert not np.array_equal(encoder.embed(sample, "st"), encoder.embed(sample, "scrna"))


def test_without_training_there_is_no_adapter_to_speak_of(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    """An adapter that changes nothing would pass for an alignment."""
    data = make_data(tissue, scrna=True)
    data.scrna_files = [str(tissue.scrna.parent / "scr*.h5ad")]  # patterns work here, too
    fit(EncoderModule(str(tmp_path / "e.pt"), SPATIAL), data, 0)
    assert load_encoder(tmp_path / "e.pt").adapter is None
    fit(EncoderModule(str(tmp_path / "e.pt"), SPATIAL), data, 1)
    assert load_encoder(tmp_path / "e.pt").adapter is not None


@pytest.fixture
def far_sample(tissue: TissuePaths, tmp_path: Path) -> Path:
    """Cells under a stress of dissociation that no spot knows."""
    sample = anndata.read_h5ad(tissue.scrna)
    rng = np.random.default_rng(0)
    stress = rng.gamma(1.0, 20.0, (sample.n_obs, 1)) * (rng.random(sample.n_vars) < 0.3)
    sample.X = sp.csr_matrix(sample.X + rng.poisson(stress)).astype(np.float32)
    sample.obs_names = [f"far_{name}" for name in sample.obs_names]
    sample.write_h5ad(tmp_path / "far.h5ad")
    return tmp_path / "far.h5ad"


def mixing_of(module: EncoderModule, data: EncoderDataModule, sample: Path, epochs: int) -> float:
    """Mixing of cells with the spots of the training slides, by neighbours in H; 1 is perfect."""
    data.scrna_files = [str(sample)]
    fit(module, data, epochs)
    encoder = load_encoder(module.output)
    spots = np.concatenate([encoder.embed(s, "st") for s in data.fit_slides])
    h = np.concatenate([spots, encoder.embed(data.scrna[0], "scrna")])
    domain = torch.tensor([0] * len(spots) + [1] * (len(h) - len(spots)))
    return domain_mixing(torch.from_numpy(h), domain)


def test_scrna_term_mixes_cells_of_another_technology_with_spots(
    tissue: TissuePaths, tmp_path: Path, far_sample: Path
) -> None:
    mixing = {}
    for weight in (0.0, 10.0):
        data = make_data(tissue)
        weights = EncoderWeights(scrna=weight)
        module = EncoderModule(str(tmp_path / "e.pt"), SPATIAL, weights=weights)
        mixing[weight] = mixing_of(module, data, far_sample, 10)
    assert 1 - mixing[10.0] < 0.6 * (1 - mixing[0.0]), mixing


def test_an_adapter_before_eigenmaps_mixes_cells_with_spots(
    tissue: TissuePaths, tmp_path: Path, far_sample: Path
) -> None:
    before, after = (
        mixing_of(
            EncoderModule(str(tmp_path / "e.pt"), EIGENMAPS),
            make_data(tissue, transform="sqrt"),
            far_sample,
            epochs,
        )
        for epochs in (0, 10)
    )
    assert abs(1 - after) < 0.5 * (1 - before), (before, after)


def test_start_beats_pca_on_an_unseen_slide(tissue: TissuePaths, tmp_path: Path) -> None:
    """Spatial PCA keeps more neighbours of a slide it never saw than PCA; both beat chance."""
    recall = {}
    for start in ("pca", "spatial", "eigenmaps"):
        module = EncoderModule(str(tmp_path / f"{start}.pt"), start=StartSettings(start))  # type: ignore[arg-type]
        fit(module, make_data(tissue, transform="sqrt" if start == "eigenmaps" else "log"), 0)
        slide = read_slides([str(tissue.slides[3])])[0]
        assert slide.xy is not None
        h = load_encoder(tmp_path / f"{start}.pt").embed(slide, "st")
        recall[start] = neighbour_recall(h, slide.xy, adaptive_k(120), 30)
    assert recall["eigenmaps"] > recall["spatial"] > recall["pca"] > 1.3 * 30 / 119


def test_eigenmaps_are_written_at_once(tissue: TissuePaths, tmp_path: Path) -> None:
    """Without scRNA-seq no epoch runs, whatever max_epochs says, and no seed matters."""
    module = EncoderModule(str(tmp_path / "e.pt"), EIGENMAPS)
    fit(module, make_data(tissue, transform="sqrt"), 500, checkpoints=tmp_path)
    assert module.global_step == 0
    encoder = load_encoder(tmp_path / "e.pt")
    assert encoder.adapter is None
    slides = read_slides([str(p) for p in tissue.slides])
    check_split(encoder.split, slides[:3], slides[3:])
    assert encoder.embed(slides[3], "st").shape == (120, 128)
    fit(
        EncoderModule(str(tmp_path / "f.pt"), EIGENMAPS, seed=1),
        make_data(tissue, seed=1, transform="sqrt"),
        1,
    )
    assert load_encoder(tmp_path / "f.pt").weights_hash == encoder.weights_hash


def test_with_eigenmaps_only_the_adapter_is_trained(tissue: TissuePaths, tmp_path: Path) -> None:
    def make(name: str) -> EncoderModule:
        weights = EncoderWeights(adversary=0.1, stress=1.0)
        return EncoderModule(str(tmp_path / name), EIGENMAPS, weights=weights)

    fit(make("none.pt"), make_data(tissue, transform="sqrt"), 0)
    fit(make("whole.pt"), make_data(tissue, True, transform="sqrt"), 3)
    fit(make("half.pt"), make_data(tissue, True, transform="sqrt"), 1, checkpoints=tmp_path)
    fit(
        make("resumed.pt"),
        make_data(tissue, True, transform="sqrt"),
        3,
        resume=tmp_path / "epoch=0.ckpt",
    )
    none, whole, resumed = (
        load_encoder(tmp_path / f"{n}.pt") for n in ("none", "whole", "resumed")
    )
    assert whole.weights_hash == resumed.weights_hash
    sample = read_slides([str(tissue.scrna)], require_spatial=False)[0]
    slide = read_slides([str(tissue.slides[3])])[0]
    if whole.panel == none.panel:
        np.testing.assert_array_equal(whole.embed(slide, "st"), none.embed(slide, "st"))
    assert not np.array_equal(whole.embed(sample, "st"), whole.embed(sample, "scrna"))


def test_eigenmaps_refuse_a_selection_slide(tissue: TissuePaths, tmp_path: Path) -> None:
    module = EncoderModule(str(tmp_path / "e.pt"), EIGENMAPS)
    with pytest.raises(ValueError, match="select_on chooses an epoch"):
        fit(module, make_data(tissue, select_on="slide_1"), 1)


def test_same_seed_same_weights_and_other_seed_other_weights(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # the global generator must not matter
        module = EncoderModule(str(tmp_path / "e.pt"), SPATIAL, seed=seed)
        fit(module, make_data(tissue, seed=seed), 1)
        hashes.append(load_encoder(tmp_path / "e.pt").weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_resumed_fit_equals_the_uninterrupted_one(tissue: TissuePaths, tmp_path: Path) -> None:
    def make(name: str) -> EncoderModule:
        return EncoderModule(str(tmp_path / name), SPATIAL, weights=EncoderWeights(adversary=0.1))

    fit(make("whole.pt"), make_data(tissue, True, "slide_1"), 4)
    fit(make("half.pt"), make_data(tissue, True, "slide_1"), 2, checkpoints=tmp_path)
    fit(make("resumed.pt"), make_data(tissue, True, "slide_1"), 4, resume=tmp_path / "epoch=1.ckpt")
    whole, half, resumed = (
        load_encoder(tmp_path / f"{n}.pt") for n in ("whole", "half", "resumed")
    )
    assert whole.weights_hash == resumed.weights_hash
    assert whole.split == half.split


def test_selection_keeps_the_best_weights_the_start_included(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    """A ruinous learning rate cannot make the written encoder worse than its start."""
    start = EncoderModule(str(tmp_path / "start.pt"), SPATIAL)
    fit(start, make_data(tissue, select_on="slide_1"), 0)
    ruined = EncoderModule(
        str(tmp_path / "ruined.pt"),
        SPATIAL,
        weights=EncoderWeights(anchor=0.0),
        optimizer=lambda p: torch.optim.AdamW(p, lr=3.0),
    )
    fit(ruined, make_data(tissue, select_on="slide_1"), 2)
    slide = read_slides([str(tissue.slides[1])])[0]
    a, b = (load_encoder(tmp_path / f"{n}.pt").embed(slide, "st") for n in ("start", "ruined"))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_held_out_expression_changes_nothing_unless_transductive(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    hashes = {}
    train = [str(p) for p in tissue.slides[:2]]
    for name, mode, heldout in (
        ("none", "inductive", []),
        ("inductive", "inductive", [str(tissue.slides[3])]),
        ("transductive", "transductive", [str(tissue.slides[3])]),
    ):
        data = EncoderDataModule(
            train,
            heldout,
            draws=DrawSettings(mode, steps_per_epoch=2, spots=64),  # type: ignore[arg-type]
        )
        fit(EncoderModule(str(tmp_path / "e.pt"), SPATIAL), data, 1)
        encoder = load_encoder(tmp_path / "e.pt")
        hashes[name] = encoder.weights_hash
        assert encoder.split.mode == mode
    assert hashes["none"] == hashes["inductive"] != hashes["transductive"]


def test_settings_that_cannot_work_are_refused(tissue: TissuePaths, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights\.coral must not be negative"):
        EncoderModule("e.pt", weights=EncoderWeights(coral=-1.0))
    with pytest.raises(ValueError, match=r"rank must be at least 128, .*got 64"):
        EncoderModule("e.pt", StartSettings("spatial", rank=64))
    with pytest.raises(ValueError, match="first_layer_lr"):
        EncoderModule("e.pt", StartSettings("random"), weights=EncoderWeights(anchor=0.0))
    with pytest.raises(ValueError, match=r"nothing to be anchored to; set weights\.anchor to 0"):
        EncoderModule("e.pt", StartSettings("random"), first_layer_lr=1e-3)
    nothing = EncoderModule(
        str(tmp_path / "e.pt"), SPATIAL, weights=EncoderWeights(0.0, 0.0, coral=0.0, anchor=0.0)
    )
    with pytest.raises(ValueError, match="are all 0, so there is nothing to train"):
        fit(nothing, make_data(tissue), 1)
    with pytest.raises(ValueError, match="select_on must name one"):
        fit(
            EncoderModule(str(tmp_path / "e.pt"), SPATIAL),
            make_data(tissue, select_on="slide_3"),
            1,
        )
    module = EncoderModule(
        str(tmp_path / "e.pt"), SPATIAL, weights=EncoderWeights(coral=0.0, scrna=0.0)
    )
    with pytest.raises(ValueError, match="adapter"):
        fit(module, make_data(tissue, scrna=True), 1)


def test_too_few_genes_after_the_detection_filter_are_refused(tissue: TissuePaths) -> None:
    data = make_data(tissue)
    data.setup("fit")
    detected = np.mean(
        [(reindex(s, s.genes)[0] > 0).mean(axis=0).A1 for s in data.fit_slides], axis=0
    )
    least = float(np.sort(detected)[-60])  # some 60 of 150 genes are above
    data.genes = replace(data.genes, min_detection=least)
    with pytest.raises(ValueError, match=r"\d\d of 150 shared genes.*at least 100 are needed"):
        data.setup("fit")


def test_mixing_is_measured_on_a_bounded_number_of_spots(
    tissue: TissuePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []

    def spy(h: torch.Tensor, domain: torch.Tensor, k: int = 15) -> float:
        sizes.append(domain.bincount().tolist())
        return domain_mixing(h, domain, k)

    monkeypatch.setattr("spatial_ipa.encoder.losses.domain_mixing", spy)
    fit(EncoderModule(str(tmp_path / "e.pt"), SPATIAL), make_data(tissue), 1)
    assert sizes
    assert all(size == [120] * 3 for size in sizes)
    sizes.clear()
    monkeypatch.setattr("spatial_ipa.encoder.losses._MIXING_TOTAL", 100)
    fit(EncoderModule(str(tmp_path / "e.pt"), SPATIAL), make_data(tissue), 1)
    assert sizes
    assert all(size == [30] * 3 for size in sizes)


def test_weights_are_drawn_on_the_cpu_whatever_the_default_device(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    """Lightning builds the layers with the accelerator as default device; "meta" stands for it."""
    data = make_data(tissue, scrna=True)
    built = []
    for device in ("cpu", "meta"):
        module = EncoderModule(
            str(tmp_path / "e.pt"), SPATIAL, weights=EncoderWeights(adversary=0.1)
        )
        fit(module, data, 0)
        module.encoder = None
        with torch.device(device):
            module.configure_model()
        built.append({**module.state_dict(), "anchor": module.anchor})
    assert built[0].keys() == built[1].keys()
    for name, value in built[0].items():
        assert built[1][name].device.type == "cpu", name
        assert torch.equal(built[1][name], value), name


def test_a_checkpoint_does_not_remember_where_the_encoder_went(
    tissue: TissuePaths, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "folder" / "e.pt"
    fit(EncoderModule(str(output), SPATIAL), make_data(tissue), 1, checkpoints=tmp_path)
    assert output.is_file()
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["weights"]["coral"] == 1.0
    assert not {"output", "optimizer"} & set(saved)


def test_a_trial_run_writes_nothing(tissue: TissuePaths, tmp_path: Path) -> None:
    module = EncoderModule(str(tmp_path / "e.pt"), SPATIAL)
    trainer = pl.Trainer(
        fast_dev_run=True,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=make_data(tissue))
    assert not (tmp_path / "e.pt").exists()
