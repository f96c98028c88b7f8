"""The frame in a training, its checkpoints, and what is placed with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.layout import frame_regression as common_frame
from spatial_ipa.layout.outline import towards_outline
from spatial_ipa.model.network import Form, NetworkSettings
from spatial_ipa.model.pair import GraphMode
from spatial_ipa.placing.embedded import POINTS_FRAME_WEIGHT
from spatial_ipa.placing.load import load
from spatial_ipa.training.datamodule import MinisetDataModule, MinisetSettings, PlacementContext
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import Schedule

D = 6


def slide(seed: int, n: int = 150, noise: float = 0.05) -> EmbeddedSlide:
    """Embeddings that are one smooth map of the position in the tissue, without symmetry."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2)) * [2.0, 1.0]
    x, y = xy.T
    h = np.stack([x, y, x * y, np.sin(2 * x), np.cos(2 * y), np.exp(0.5 * (x + y))], axis=1)
    h = h + noise * rng.standard_normal((n, D))
    return EmbeddedSlide(f"s{seed}", h.astype(np.float32), xy.astype(np.float32))


def trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip


def data() -> MinisetDataModule:
    settings = MinisetSettings(
        per_epoch=2, val_per_slide=1, batch_size=2, size_min=60, size_max=80, num_candidates=15
    )
    return MinisetDataModule([slide(0), slide(1)], [slide(2)], settings)


def untrained(
    common_frame: bool = True, graph: GraphMode = "gated", form: Form = "states"
) -> SpatialIPAModule:
    torch.manual_seed(0)
    return SpatialIPAModule(
        NetworkSettings(D, 16, 2, 8, 2, form=form),
        graph,
        schedule=Schedule(gate_steps=1),
        common_frame=common_frame,
    )


def fitted(
    folder: Path, common_frame: bool = True, graph: GraphMode = "gated", form: Form = "states"
) -> SpatialIPAModule:
    """A very short fit on two slides, saved as ``model.ckpt``."""
    module, used = untrained(common_frame, graph, form), trainer(folder)
    used.fit(module, datamodule=data())
    used.save_checkpoint(folder / "model.ckpt")
    return module


def saved_context(path: Path) -> PlacementContext:
    state = torch.load(path, weights_only=True)["placement_context"]
    return PlacementContext.from_state(state)


QUIET = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")


@QUIET
@pytest.mark.parametrize(("form", "weight"), [("points", POINTS_FRAME_WEIGHT), ("states", 1.0)])
@pytest.mark.parametrize("n", [80, 200])
def test_a_module_refines_what_it_places(
    n: int, form: Form, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and stitched; the refined layout is the plain one after `refine` with the same seed."""
    monkeypatch.setattr(common_frame, "_SAMPLE", 50)
    fitted(tmp_path, form=form)
    placer, h = load(tmp_path / "model.ckpt"), slide(3, n).h
    context = placer.context
    assert context.frame is not None
    refined = placer.layout(torch.from_numpy(h), "auto", 3, 5)
    with monkeypatch.context() as patch:
        patch.setattr("spatial_ipa.placing.embedded.refined", lambda placed, *_: placed)
        plain = placer.layout(torch.from_numpy(h), "auto", 3, 5)
    assert not torch.allclose(plain.xy, refined.xy, atol=0.01)
    expected = common_frame.refined(plain, context.frame.averaged(h, 5), weight)
    torch.testing.assert_close(expected.xy, refined.xy)
    other = common_frame.refined(plain, context.frame.averaged(h, 6), weight)
    assert not torch.equal(other.xy, refined.xy)


@QUIET
@pytest.mark.parametrize(("common_frame", "graph"), [(False, "gated"), (True, "true")])
def test_without_common_frame(common_frame: bool, graph: GraphMode, tmp_path: Path) -> None:
    module = fitted(tmp_path, common_frame, graph)
    for context in (module.context, saved_context(tmp_path / "model.ckpt")):
        assert context is not None
        assert context.frame is None


def test_points_without_a_common_frame_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set network\.form to states"):
        untrained(common_frame=False, form="points")


@QUIET
@pytest.mark.parametrize("graph", ["gated", "candidates", "true"])
def test_points_validate_from_a_checkpoint_alone(graph: GraphMode, tmp_path: Path) -> None:
    """In a new module, whose frame only the checkpoint knows; with the true graph, too."""
    module, h = fitted(tmp_path, graph=graph, form="points"), torch.from_numpy(slide(3).h)
    fresh = untrained(graph=graph, form="points")
    used = trainer(tmp_path)
    used.validate(
        fresh,
        datamodule=data(),
        verbose=False,
        ckpt_path=tmp_path / "model.ckpt",
        weights_only=True,
    )
    assert used.callback_metrics["val/e_geo"].isfinite()
    if graph != "true":
        placed = fresh.placer().layout(h, num_draws=2).xy
        assert torch.equal(placed, module.placer().layout(h, num_draws=2).xy)


@QUIET
def test_points_without_a_gate_are_placed_from_a_file(tmp_path: Path) -> None:
    module, h = fitted(tmp_path, graph="candidates", form="points"), torch.from_numpy(slide(3).h)
    placer = load(tmp_path / "model.ckpt")
    assert placer.gate is None
    assert torch.equal(placer.layout(h, num_draws=2).xy, module.placer().layout(h, num_draws=2).xy)


@QUIET
def test_states_without_a_common_frame_are_placed_and_stretched_alone(tmp_path: Path) -> None:
    """From the file: the network's layout after the outline step, and nothing else."""
    fitted(tmp_path, common_frame=False)
    placer, h = load(tmp_path / "model.ckpt"), torch.from_numpy(slide(3).h)
    aspect = placer.context.aspect
    assert aspect is not None
    plain = replace(placer, context=replace(placer.context, aspect=None)).layout(h, num_draws=2)
    found = placer.layout(h, num_draws=2)
    assert torch.equal(found.xy, towards_outline(plain, aspect).xy)
    assert not torch.equal(found.xy, plain.xy)


@QUIET
@pytest.mark.parametrize("common_frame", [False, True])
def test_a_resumed_fit_follows_its_own_option(common_frame: bool, tmp_path: Path) -> None:
    """And not the checkpoint, which may be from before there were frames."""
    fitted(tmp_path, not common_frame)
    module = untrained(common_frame)
    trainer(tmp_path).fit(
        module, datamodule=data(), ckpt_path=tmp_path / "model.ckpt", weights_only=True
    )
    assert module.context is not None
    assert (module.context.frame is not None) == common_frame


@QUIET
@pytest.mark.parametrize("form", ["points", "states"])
def test_validation_after_a_fit_keeps_the_frame(form: Form, tmp_path: Path) -> None:
    module = fitted(tmp_path, form=form)
    before, h = module.context, torch.from_numpy(slide(3).h)
    assert before is not None
    placed = module.placer().layout(h, num_draws=2).xy
    trainer(tmp_path).validate(module, datamodule=data(), verbose=False)
    assert module.context is not None
    assert module.context.frame is before.frame
    assert torch.equal(module.placer().layout(h, num_draws=2).xy, placed)


def test_a_context_from_before_there_were_frames_has_none() -> None:
    state = PlacementContext(None, 20, 100, 0.0).state()
    del state["frame"]
    assert PlacementContext.from_state(state).frame is None
