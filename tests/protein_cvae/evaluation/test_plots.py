"""Figures of an evaluation: what is drawn, against NumPy and sklearn; `lightning test`."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.colors
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from protein_traces import LENGTH, make_traces
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import SimulationSettings
from protein_cvae.evaluation.latent_effects import GLOBAL, LOCAL
from protein_cvae.evaluation.plots.ensembles import (
    distance_difference,
    distance_figure,
    latent_figure,
    principal_plane,
    ramachandran_figure,
)
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.ramachandran import CLASS_NAMES
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule
from protein_cvae.residues import encode_sequence


@pytest.fixture
def ensembles() -> dict[str, torch.Tensor]:
    return make_traces()


def test_ramachandran_panels_hold_every_residue_once_and_outliers_in_red():
    angles = torch.tensor([-1.1, -0.75, np.pi])[:, None, None].repeat(1, 3, LENGTH).double()
    angles[0, :, 5], angles[1, :, 5] = 1.5, -1.5  # nothing is there, but glycine
    bonded = torch.arange(LENGTH) < LENGTH - 1
    backbone = build_backbone(Torsions(*angles), bonded.expand(3, -1))
    aatype = encode_sequence("AAGAAAPAVIGA")
    figure = ramachandran_figure("x", {"real": backbone, "ours": backbone[:1]}, bonded, aatype)
    panels = np.array(figure.axes).reshape(2, len(CLASS_NAMES))
    red = matplotlib.colors.to_rgba("C3")
    for row, count in zip(panels, (3, 1), strict=True):
        seen = {
            axis_name: [len(c.get_offsets()) for c in axis.collections[-2:]]
            for axis_name, axis in zip(CLASS_NAMES, row, strict=True)
        }
        # Residue 5 comes before the proline: an outlier there.
        assert seen["pre-proline"] == [0, count]
        assert seen["glycine"] == [2 * count, 0]
        assert seen["ile-val"] == [2 * count, 0]
        assert sum(map(sum, seen.values())) == count * (LENGTH - 2)
        assert tuple(row[0].collections[-1].get_facecolor()[0]) == red


def test_distance_difference_is_that_of_the_means(ensembles):
    a, b = ensembles["ours"], ensembles["real"]
    wanted = np.mean([cdist(x, x) for x in a.numpy()], 0) - np.mean(
        [cdist(x, x) for x in b.numpy()], 0
    )
    np.testing.assert_allclose(distance_difference(a, b), wanted, atol=1e-6)
    figure = distance_figure("x", ensembles)
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == 2
    np.testing.assert_allclose(images[0].get_array(), wanted, atol=1e-6)
    assert images[0].get_clim() == images[1].get_clim()
    low, high = images[0].get_clim()
    assert low == -high


def test_principal_plane_is_that_of_sklearn():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1])
    plane, share = principal_plane(x)
    pca = PCA(2).fit(x.numpy())
    np.testing.assert_allclose(np.abs(plane), np.abs(pca.transform(x.numpy())), atol=1e-9)
    np.testing.assert_allclose(share, pca.explained_variance_ratio_)
    # One dimension, or nothing that varies, is no error.
    assert principal_plane(x[:, :1])[0].shape == (30, 2)
    assert np.isfinite(principal_plane(0 * x)[1]).all()


def test_latent_map_has_a_point_per_model_and_a_colour_per_protein():
    maps = {"a": torch.randn(4, 5), "b": torch.randn(7, 5)}
    axes = latent_figure(maps, 3).axes
    for axis in axes:
        dots = axis.collections[0]
        assert len(dots.get_offsets()) == 11
        assert dots.get_array().tolist() == [0] * 4 + [1] * 7
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["a", "b"]


def test_lightning_test_writes_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = EnsembleDataModule(
        simulate=SimulationSettings(num_proteins=2, num_models=5, min_length=24, max_length=26)
    )
    sizes = NetworkSettings(
        width=16, layers=1, condition_layers=1, heads=2, feed_forward=16, d_global=4,
        hidden=8, decoder_layers=1, chain_neighbors=2, spatial_neighbors=4,
    )  # fmt: skip
    module = ProteinCVAEModule(sizes, evaluation=EvaluationSettings(count=2, figures=1))
    assert "evaluation" not in module.hparams
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False
    )
    with pytest.warns(UserWarning, match="no --ckpt_path"):
        trainer.test(module, datamodule=data)
    folder = tmp_path / "run" / "evaluation"
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    assert {row["protein"] for row in rows} == {"simulated_0_0", "simulated_0_1"}
    assert (folder / "evaluation.md").read_text().strip() in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert len(figures) == 5 + 1
    effects = [json.loads(x) for x in (folder / "latent_effects.jsonl").read_text().splitlines()]
    assert {row["protein"] for row in effects} == {"simulated_0_0"}  # one protein has figures
    assert {(row["latent"], row["size"]) for row in effects} == {
        (latent, size) for latent in (GLOBAL, *LOCAL) for size in (1.0, 2.0)
    }
    assert "## What each latent moves" in (folder / "evaluation.md").read_text()
    assert set(events.Tags()["images"]) == {f"evaluation/{name}" for name in figures}
