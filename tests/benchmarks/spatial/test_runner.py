"""One fold: what is trained, what is not, and that the rows say what happened."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.model.losses import LossWeights
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.pair import build_pair


@pytest.fixture(scope="module")
def runner(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/runner")


def args(folder: Path) -> Namespace:
    return Namespace(
        per_epoch=4, batch_size=2, size_max=96, noise_h=0.1, w_procrustes=0.0, common_frame=True,
        form="points", epochs=8, num_draws=2, out=str(folder), tag="t", modes=["whole", "stitched"],
        gate_steps=None, lr=None, candidates=40,
    )  # fmt: skip


def prepared(runner: ModuleType, folder: Path) -> Any:
    """A runner of slides whose embeddings are the position and noise."""
    rng = np.random.default_rng(0)
    slides, embedded = [], []
    for i in range(3):
        xy = rng.random((120, 2)) * [2.0, 1.0]
        noise = 0.1 * rng.standard_normal((120, 2))
        h = np.hstack([xy - xy.mean(axis=0), noise]).astype(np.float32)
        slide = Slide.build(f"s{i}", np.ones((120, 2)), ["a", "b"], xy.astype(np.float32))
        slides.append(runner.turned(slide, 0, i))
        embedded.append(EmbeddedSlide(slide.name, h, slides[-1].xy, fold=spatial_blocks(xy)))
    made = runner.Runner.__new__(runner.Runner)
    made.args, made.seed, made._scorers = args(folder), 0, {}
    made.train, made.test = slides[:2], slides[2:]
    made.fold = runner.Fold("f", (), ())
    made.embedded = lambda features: (embedded, 0.0)
    return made


def test_the_common_frame_alone_is_scored_on_the_held_out_slide(
    runner: ModuleType, tmp_path: Path
) -> None:
    """Regression finds the position in slides of any pose."""
    (row,) = prepared(runner, tmp_path).regression()
    assert (row["slide"], row["method"]) == ("s2", "common frame alone")
    assert row["spearman"] > 0.95


@pytest.mark.filterwarnings("default")
def test_untrained_is_the_network_as_it_is_drawn(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is placed as a trained one is, with frame and gate, and has learned nothing."""
    made: list[Any] = []
    weights: list[torch.Tensor] = []

    class Watched(runner.SpatialIPAModule):  # type: ignore[name-defined, misc]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            made.append(self)
            weights.extend(p.detach().clone() for p in self.parameters())

    monkeypatch.setattr(runner, "SpatialIPAModule", Watched)
    rows = list(prepared(runner, tmp_path).method("untrained"))
    (module,) = made
    for before, after in zip(weights, module.parameters(), strict=True):
        assert torch.equal(before, after)
    assert module.placer().context.frame is not None
    assert [(r["method"], r["inference"]) for r in rows] == [
        ("untrained", "whole"), ("untrained", "stitched"),
    ]  # fmt: skip
    assert all(0 < row["gate, all"] < 1 and 0 < row["h_i.h_j, by cell"] < 1 for row in rows)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["bound: oracle gate", "bound: thinned true graph"])
def test_bounds_are_trained_and_placed_on_their_edges(
    runner: ModuleType, tmp_path: Path, name: str
) -> None:
    (row,) = prepared(runner, tmp_path).method(name)
    assert (row["method"], row["inference"]) == (name, "stitched")
    assert np.isfinite(row["e_geo"])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "network", "weights", "walk"),
    [
        ("option: base", {}, {}, "one_step"),
        ("option: unshared, 3 recycles", {"block": "unshared", "recycles": 3}, {}, "one_step"),
        ("option: gate weight 0.2", {}, {"gate": 0.2}, "one_step"),
        ("option: gate of two steps", {}, {}, "two_steps"),
    ],
)
def test_an_option_is_trained_with_its_settings(
    runner: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    network: dict[str, object],
    weights: dict[str, float],
    walk: str,
) -> None:
    """Of `form: states` whatever the command line says, and nothing else changed."""
    seen: list[tuple[Any, str]] = []

    class Watched(runner.SpatialIPAModule):  # type: ignore[name-defined, misc]
        def on_train_end(self) -> None:
            seen.append((self, self.trainer.datamodule.settings.gate_walk))

    monkeypatch.setattr(runner, "SpatialIPAModule", Watched)
    made = prepared(runner, tmp_path)
    made.args.epochs, made.args.gate_steps, made.args.lr = 1, 2, 3e-3
    made.args.modes = ["whole"]
    (row,) = made.method(name)
    ((module, taught),) = seen
    settings = module.model.settings
    assert NetworkSettings(4, form="states", **network) == settings  # type: ignore[arg-type]
    assert module.weights == LossWeights(**weights)
    assert (module.schedule.gate_steps, module.schedule.lr, taught) == (2, 3e-3, walk)
    assert module.schedule.lr_final == 1e-5
    assert (row["method"], row["inference"]) == (name, "whole")
    assert not list(tmp_path.glob("layouts/**/*.npy"))


def test_options_differ_from_their_base(runner: ModuleType) -> None:
    """All are networks that can be built, and no two are the same training."""
    options = runner.OPTIONS
    assert len(set(options.values())) == len(options)
    assert options["option: base"] == runner.Option()
    for option in options.values():
        build_pair(option.network, option.graph)
