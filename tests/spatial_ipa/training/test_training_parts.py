"""Gate pretraining, loaders, checkpoint context, embedding cache, stages, prediction input."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch.utils.data import DataLoader

from common.training.stage import run_stage
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import FrozenEncoder, ScRNAAdapter, SharedEncoder
from spatial_ipa.encoder.stage import ensure_encoder, yaml_list
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.losses import LossWeights, geometry_terms, loss_gate
from spatial_ipa.model.minisets import Augmentation, Miniset, MinisetDataset, collate
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.placing.command import CellDataModule
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.options import PlacementOptions
from spatial_ipa.placing.placer import Placer
from spatial_ipa.training.datamodule import MinisetDataModule, SlideDataModule
from spatial_ipa.training.gate_pretraining import pretrain_gate
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import EncoderFile, MinisetSettings

D = 8


def learnable_slide(name: str, n: int = 150, seed: int = 0) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the coordinates plus two columns of noise."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    waves = [f(np.pi * xy) for f in (np.sin, np.cos)]
    h = np.concatenate([2 * xy - 1, *waves, 0.3 * rng.standard_normal((n, 2))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), xy.astype(np.float32))


def test_two_threads_give_the_same_gradients_every_time(two_threads: None) -> None:
    """At a size where PyTorch shares gathers among threads (32,768 numbers and more)."""
    slide = learnable_slide("a", n=600)
    data = MinisetDataset([slide], 3, 384, 384, 60, 0, None, Augmentation())
    batch = collate([data[i] for i in range(3)])
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D))
    found = []
    for _ in range(4):
        module.zero_grad()
        layout, edges, logit = module(batch)
        assert logit is not None
        loss = geometry_terms(layout.x, batch.target).energy(LossWeights()).mean()
        loss = loss + loss_gate(logit, edges, batch.wanted, batch.target).mean()
        loss.backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(found[0]) > 20
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


class MidTraining(SpatialIPAModule):
    """A module past its ramp, without a trainer."""

    current_epoch = 9

    def log(self, *args: object, **options: object) -> None:
        pass


def test_the_procrustes_term_enters_the_loss_with_its_weight() -> None:
    data = MinisetDataset([learnable_slide("a")], 2, 60, 80, 40)
    batch = collate([data[0], data[1]])
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        module = MidTraining(NetworkSettings(D), weights=LossWeights(procrustes=weight))
        losses.append(module.training_step(batch, 0))
    term = geometry_terms(module(batch)[0].x, batch.target)["procrustes"].mean()
    assert term > 0.05
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * term)


# ---- gate pretraining


def gate_and_data() -> tuple[EdgeGateSoft, MinisetDataset]:
    torch.manual_seed(0)
    augmentation = Augmentation(noise_h=0.05, dropout_h=0.0, drop_edges=0.2)
    data = MinisetDataset([learnable_slide("a")], 10, 60, 80, 40, 0, None, augmentation)
    return EdgeGateSoft(D, 16), data


@torch.no_grad()
def gate_kl(gate: EdgeGateSoft, item: Miniset) -> float:
    logit = gate(item.h, item.candidates)
    return loss_gate(logit, item.candidates, item.wanted, item.target).mean().item()


def test_pretraining_lowers_the_kl_on_a_slide_it_has_not_seen() -> None:
    gate, data = gate_and_data()
    unseen = MinisetDataset([learnable_slide("b", seed=1)], 1, 80, 80, 40)[0]
    before = gate_kl(gate, unseen)
    history = pretrain_gate(gate, data, 120, 1e-2, 0.0)
    assert len(history) == 120
    assert np.mean(history[-10:]) < 0.5 * np.mean(history[:3])
    assert gate_kl(gate, unseen) < 0.6 * before


def test_pretraining_is_deterministic() -> None:
    (first, data), (again, _) = gate_and_data(), gate_and_data()
    one = pretrain_gate(first, data, 5, 1e-2, 1e-2)
    torch.manual_seed(99)
    two = pretrain_gate(again, data, 5, 1e-2, 1e-2)
    assert one == two
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_steps_leave_the_gate_alone() -> None:
    (gate, data), (untouched, _) = gate_and_data(), gate_and_data()
    assert pretrain_gate(gate, data, 0, 1e-2, 0.0) == []
    for a, b in zip(gate.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- loaders


def datamodule(world: int, rank: int, batch_size: int = 2, done: int = 0) -> MinisetDataModule:
    """A data module of 10 training draws and 2 x 3 validation draws, as rank ``rank`` sees it.

    Args:
        world: number of processes.
        rank: this process.
        batch_size: minisets per batch.
        done: training batches finished before.
    """
    settings = MinisetSettings(
        per_epoch=10, val_per_slide=3, batch_size=batch_size, size_min=30, size_max=40,
        num_candidates=10, num_rows=12,
    )  # fmt: skip
    slides = [learnable_slide(name, 60, seed) for seed, name in enumerate("abcd")]
    module = MinisetDataModule(slides[:2], slides[2:], settings)
    progress = SimpleNamespace(total=SimpleNamespace(completed=done))
    module.trainer = cast(
        pl.Trainer,
        SimpleNamespace(
            world_size=world,
            global_rank=rank,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        ),
    )
    return module


def drawn(loader: object) -> list[int]:
    assert isinstance(loader, DataLoader)
    assert loader.sampler is not None
    return list(loader.sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_equal_counts_and_different_draws(world: int) -> None:
    """10 training draws on 3 ranks are rounded up to 12; 6 validation draws fit all."""
    modules = [datamodule(world, rank) for rank in range(world)]
    for loaders, total, needed in (
        ([m.train_dataloader() for m in modules], {1: 10, 2: 10, 3: 12}[world], 10),
        ([m.val_dataloader() for m in modules], 6, 6),
    ):
        parts = [drawn(loader) for loader in loaders]
        assert {len(part) for part in parts} == {total // world}
        assert len({len(cast(DataLoader[Miniset], loader)) for loader in loaders}) == 1
        assert sorted(index for part in parts for index in part) == list(range(total))
        assert total >= needed


def test_batches_hold_what_the_dataset_draws() -> None:
    module = datamodule(2, 1)
    dataset = module.train_dataset()
    batches = list(module.train_dataloader())
    assert [b.num_graphs for b in batches] == [2, 2, 1]
    wanted = [dataset[i] for i in (1, 3, 5, 7, 9)]
    assert torch.equal(torch.cat([b.h for b in batches]), torch.cat([m.h for m in wanted]))
    assert all(b.start_noise is not None for b in batches)
    assert {len(m.target.rows) for m in wanted} == {12}


def test_validation_is_clean_complete_and_the_same_in_every_epoch() -> None:
    early, late = (list(datamodule(1, 0, done=done).val_dataloader()) for done in (0, 35))
    for a, b in zip(early, late, strict=True):
        assert torch.equal(a.h, b.h)
        assert a.start_noise is None
        assert len(a.target.rows) == len(a.h)
    slides = datamodule(1, 0).val
    known = torch.from_numpy(np.concatenate([s.h for s in slides]))
    for row in early[0].h:
        assert bool((known == row).all(1).any()), "not an unchanged row of a validation slide"


def test_validation_does_not_repeat_training_draws() -> None:
    """The same slides in both roles: the seeds differ, so the subsets do."""
    module = datamodule(1, 0)
    module.settings = replace(module.settings, augmentation=Augmentation(0.0, 0.0, 0.0))
    module.val = module.train
    first = next(iter(module.train_dataloader()))
    other = next(iter(cast(DataLoader[Miniset], module.val_dataloader())))
    assert first.h.shape != other.h.shape or not torch.equal(first.h, other.h)


@pytest.mark.parametrize(("done", "start"), [(0, 0), (5, 10), (10, 20)])
def test_a_resumed_loader_starts_in_its_epoch(done: int, start: int) -> None:
    assert drawn(datamodule(1, 0, done=done).train_dataloader()) == list(range(start, start + 10))


def test_without_validation_slides_there_is_no_loader() -> None:
    module = datamodule(1, 0)
    module.val = []
    assert module.val_dataloader() == []


@pytest.mark.parametrize(
    "name", ["per_epoch", "val_per_slide", "batch_size", "num_candidates", "num_rows"]
)
def test_bad_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(MinisetSettings(), **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(("size_min", "size_max"), [(90, 80), (7, 80)])
def test_bad_sizes_are_refused_where_they_are_given(size_min: int, size_max: int) -> None:
    with pytest.raises(ValueError, match=rf"8 <= size_min <= size_max, got {size_min} and 80"):
        MinisetSettings(size_min=size_min, size_max=size_max)


def test_one_recycle_is_refused_on_several_processes() -> None:
    """One pass leaves the state update without gradient, which DDP would refuse less clearly."""
    module = SpatialIPAModule(NetworkSettings(recycles=1))
    for world_size in (1, 2):
        trainer = cast(pl.Trainer, SimpleNamespace(max_epochs=1, world_size=world_size))
        if world_size == 1:
            module.check_settings(trainer)
        else:
            with pytest.raises(ValueError, match="recycles must be at least 2 on several proc"):
                module.check_settings(trainer)


# ---- the checkpoint's context, and the embedding cache


def make_slide(seed: int = 0, n: int = 30, num_genes: int = 40) -> Slide:
    counts = np.random.default_rng(seed).poisson(2.0, (n, num_genes))
    return Slide.build(f"s{seed}", counts, [f"g{i}" for i in range(num_genes)], None)


def make_encoder(seed: int = 0) -> FrozenEncoder:
    generator = torch.Generator().manual_seed(seed)
    slide = make_slide()
    adapter = ScRNAAdapter(len(slide.genes), 4, generator)
    adapter.shift.data.fill_(0.3)
    trunk = SharedEncoder(len(slide.genes), D, (24, 16), generator=generator)
    return FrozenEncoder(trunk, adapter, slide.genes, Split.declare([slide], []), 1e4)


def through_file(context: PlacementContext, path: Path) -> PlacementContext:
    torch.save(context.state(), path)
    return PlacementContext.from_state(torch.load(path, weights_only=True))


def test_context_survives_a_checkpoint(tmp_path: Path) -> None:
    context = PlacementContext(make_encoder(), 80, 384, 0.3, 0.7)
    again = through_file(context, tmp_path / "context.pt")
    assert (again.num_candidates, again.size, again.noise_h, again.aspect) == (80, 384, 0.3, 0.7)
    assert context.encoder is not None
    assert again.encoder is not None
    assert again.encoder.weights_hash == context.encoder.weights_hash
    assert again.encoder.split == context.encoder.split
    for kind in ("st", "scrna"):
        before, after = (c.embed(make_slide(4), kind) for c in (context.encoder, again.encoder))
        assert np.array_equal(before, after)


def test_context_without_encoder_survives(tmp_path: Path) -> None:
    context = PlacementContext(None, 20, 100, 0.0)
    assert through_file(context, tmp_path / "context.pt") == context


def test_context_describes_the_settings() -> None:
    data = datamodule(2, 0)
    context = data.context
    assert context.aspect is not None
    assert replace(context, aspect=None) == PlacementContext(None, 10, 40, Augmentation().noise_h)
    # The ratio of singular values of the centred coordinates, geometric mean over slides.
    ratios = []
    for slide in data.train:
        values = np.linalg.svd(slide.xy - slide.xy.mean(0), compute_uv=False)
        ratios.append(values[1] / values[0])
    assert context.aspect == pytest.approx(np.sqrt(ratios[0] * ratios[1]), rel=1e-6)


class Counting:
    """Stands where the encoder's ``embed`` was, and counts its calls."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        self.inner, self.calls = encoder.embed, 0

    def __call__(self, slide: Slide, kind: str) -> np.ndarray:
        self.calls += 1
        return self.inner(slide, kind)  # type: ignore[arg-type]


def test_cache_computes_once(tmp_path: Path) -> None:
    encoder, slide = make_encoder(), make_slide(1)
    wanted = encoder.embed(slide, "st")
    counting = Counting(encoder)
    object.__setattr__(encoder, "embed", counting)
    for _ in range(3):
        found = embed(encoder, slide, "st", tmp_path / "deep" / "cache")
        assert np.array_equal(found, wanted)
        assert not found.flags.writeable
    assert counting.calls == 1
    assert [p.suffix for p in (tmp_path / "deep" / "cache").iterdir()] == [".npy"]


def test_cache_tells_weights_expression_and_kind_apart(tmp_path: Path) -> None:
    for encoder in (make_encoder(0), make_encoder(1)):
        for slide in (make_slide(1), make_slide(2)):
            for kind in ("st", "scrna"):
                found = embed(encoder, slide, kind, tmp_path)
                assert np.array_equal(found, encoder.embed(slide, kind))
    assert len(list(tmp_path.iterdir())) == 8
    renamed = replace(make_slide(1), name="other")
    embed(make_encoder(0), renamed, "st", tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_cache_of_older_code_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(encoder := make_encoder())
    object.__setattr__(encoder, "embed", counting)
    embed(encoder, make_slide(1), "st", tmp_path)
    monkeypatch.setattr("spatial_ipa.encoder.cache.ENCODER_VERSION", 10_000)
    embed(encoder, make_slide(1), "st", tmp_path)
    assert counting.calls == 2


def test_no_cache_folder_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = embed(make_encoder(), make_slide(1), "st", None)
    assert np.array_equal(found, make_encoder().embed(make_slide(1), "st"))
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    """Whether the encoder or the writing fails: the next call starts from nothing."""
    encoder = make_encoder()

    def fail(slide: Slide, kind: str) -> np.ndarray:
        raise RuntimeError("out of memory")

    whole = encoder.embed
    object.__setattr__(encoder, "embed", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(encoder, make_slide(1), "st", tmp_path)
    assert not list(tmp_path.iterdir())
    object.__setattr__(encoder, "embed", whole)
    assert len(embed(encoder, make_slide(1), "st", tmp_path)) == 30


def test_a_file_with_other_rows_is_refused(tmp_path: Path) -> None:
    embed(make_encoder(), make_slide(1), "st", tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros((29, D), np.float32))
    with pytest.raises(ValueError, match="holds 29 rows for 30 spots; delete it"):
        embed(make_encoder(), make_slide(1), "st", tmp_path)


# ---- prediction input


def test_existing_output_is_refused_unless_told(tmp_path: Path) -> None:
    taken = tmp_path / "out.h5ad"
    taken.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"out\.h5ad exists; .*data\.overwrite"):
        CellDataModule("in.h5ad", str(taken))
    assert CellDataModule("in.h5ad", str(taken), overwrite=True).overwrite
    assert taken.read_bytes() == b"precious"


def test_output_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent of data\.output does not exist"):
        CellDataModule("in.h5ad", str(tmp_path / "absent" / "out.h5ad"))


def test_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    """Also through another spelling or a link, and also when overwriting is allowed."""
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"precious")
    (tmp_path / "link.h5ad").symlink_to(path)
    (tmp_path / "sub").mkdir()
    for output in (path, tmp_path / "link.h5ad", tmp_path / "sub" / ".." / "cells.h5ad"):
        with pytest.raises(ValueError, match=r"data\.output is the input file"):
            CellDataModule(str(path), str(output), overwrite=True)


def test_an_earlier_prediction_is_refused_before_any_work_unless_told(tmp_path: Path) -> None:
    data = ad.AnnData(np.random.default_rng(0).poisson(2.0, (12, 5)).astype(np.float32))
    data.obsm["X_spatial_ipa"] = np.zeros((12, 2))
    data.write_h5ad(tmp_path / "cells.h5ad")
    files = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    with pytest.raises(ValueError, match=r"earlier prediction \(obsm\['X_spatial_ipa'\]\); set"):
        CellDataModule(*files).setup("predict")
    CellDataModule(*files, overwrite=True).setup("predict")


def test_cells_bring_their_gene_names_in_a_column(tmp_path: Path) -> None:
    data = ad.AnnData(np.random.default_rng(0).poisson(2.0, (12, 5)).astype(np.float32))
    data.var["feature_name"] = list("ABCDE")
    data.write_h5ad(tmp_path / "cells.h5ad")
    files = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    module = CellDataModule(*files, keys=SlideKeys(gene_key="feature_name"))
    module.setup("predict")
    assert module.request.slide.genes == tuple("ABCDE")
    with pytest.raises(ValueError, match="var has no column 'name'"):
        CellDataModule(*files, keys=SlideKeys(gene_key="name")).setup("predict")


def test_cells_are_for_prediction_only(tmp_path: Path) -> None:
    module = CellDataModule("in.h5ad", str(tmp_path / "out.h5ad"))
    with pytest.raises(ValueError, match="only serves `lightning predict`"):
        module.setup("fit")


def test_one_draw_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least 2 for a spread, got 1"):
        PlacementOptions(num_draws=1)
    with pytest.raises(ValueError, match="approximate_above must be positive, got 0"):
        PlacementOptions(approximate_above=0)


def test_a_graph_that_needs_faiss_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = tmp_path / "cells.h5ad"
    ad.AnnData(np.random.default_rng(0).poisson(2.0, (12, 5)).astype(np.float32)).write_h5ad(cells)
    monkeypatch.setattr("spatial_ipa.placing.command.find_spec", lambda name: None)

    def module(**options: object) -> CellDataModule:
        placement = PlacementOptions(**options)  # type: ignore[arg-type]
        return CellDataModule(str(cells), str(tmp_path / "out.h5ad"), placement=placement)

    with pytest.raises(ImportError, match=r"12 cells needs faiss.*write_graph=false"):
        module(approximate_above=11).setup("predict")
    for options in ({"approximate_above": 12}, {"approximate_above": 1, "write_graph": False}):
        data = module(**options)
        data.setup("predict")
        assert list(data.request.clock.seconds) == ["read"]


def test_an_approximate_gate_graph_holds_nearly_the_exact_one() -> None:
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D))
    placer = Placer(module.model, module.gate, PlacementContext(None, 20, 100, 0.0))
    h = torch.from_numpy(learnable_slide("many", 3000).h)
    exact_weight, exact = placer.gate_graph(h)
    weight, edges = placer.gate_graph(h, approximate_above=2999)
    same_weight, same = placer.gate_graph(h, approximate_above=3000)
    assert torch.equal(same.edge_index, exact.edge_index)
    assert torch.equal(same_weight, exact_weight)
    pairs = [set(map(tuple, e.edge_index.T.tolist())) for e in (edges, exact)]
    assert len(pairs[0]) == len(pairs[1]) == 20 * 3000
    assert len(pairs[0] & pairs[1]) >= 0.95 * len(pairs[1])
    row_sums = torch.zeros(3000).index_add(0, edges.dst, weight)
    torch.testing.assert_close(row_sums, torch.ones(3000))


# ---- stages

LAUNCHER = (
    "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK",
    "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "PMI_RANK",
    "OMPI_COMM_WORLD_RANK", "PL_GLOBAL_SEED",
)  # fmt: skip


def test_a_stage_starts_without_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def fake(
        command: list[str], env: dict[str, str], check: bool
    ) -> subprocess.CompletedProcess[str]:
        seen.update(command=command, env=env)
        return subprocess.CompletedProcess(command, 0)

    for name in LAUNCHER:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("EDGEWISE_DATA", "kept")
    monkeypatch.setattr(subprocess, "run", fake)
    run_stage(["fit", "--config", "a b.yaml"])
    assert seen["command"] == [sys.executable, "-m", "common.cli", "fit", "--config", "a b.yaml"]
    environment = cast(dict[str, str], seen["env"])
    assert not set(LAUNCHER) & set(environment)
    assert environment["EDGEWISE_DATA"] == "kept"
    assert "PATH" in environment


def test_an_absent_encoder_reads_the_slides_as_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SlideKeys("counts", "symbol", "xy")
    scrna_keys = SlideKeys("raw.X", "feature_name")
    stages: list[list[str]] = []
    monkeypatch.setattr("spatial_ipa.encoder.stage.run_stage", stages.append)
    encoder = EncoderFile(str(tmp_path / "encoder.pt"), "e.yaml")
    module = SlideDataModule(["a"], ["b"], encoder, keys=keys, scrna_keys=scrna_keys)
    ensure_encoder(Path(encoder.path), encoder.config, module.inputs)
    (arguments,) = stages
    assert {
        "--data.init_args.keys.spatial_key=xy",
        "--data.init_args.keys.layer=counts",
        "--data.init_args.keys.gene_key=symbol",
        "--data.init_args.scrna_keys.layer=raw.X",
        "--data.init_args.scrna_keys.gene_key=feature_name",
    } <= set(arguments)
    (tmp_path / "encoder.pt").touch()
    ensure_encoder(Path(encoder.path), None, module.inputs)  # it is there
    assert len(stages) == 1


def test_a_failed_stage_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2)
    )
    with pytest.raises(ValueError, match=r"`lightning fit --config=x` failed with status 2"):
        run_stage(["fit", "--config=x"])


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["a.h5ad"],
        ["it's", "a, b", "c: d", "[x]", "{y}", "# z", ' "q" ', "", "-", "null", "1", "é", "a\\n"],
    ],
)
def test_yaml_list_survives_the_parser(values: list[str]) -> None:
    assert yaml.safe_load(yaml_list(values)) == values
