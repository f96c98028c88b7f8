"""What a Trainer is given: no held-out model in training, resume, processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from protein_data import (
    Recorder,
    Seen,
    grouped,
    items_of,
    make_module,
    make_trainer,
)
from protein_trajectories import save, topology_and_frames

from protein_cvae.data.settings import TimeBlocks
from protein_cvae.frames_file import MappedFrames


@pytest.fixture(scope="module")
def folder(protein_folder: Path) -> Path:
    return protein_folder


def test_training_never_sees_held_out_models(folder: Path, tmp_path: Path) -> None:
    data = make_module(folder, families_held_out=["apart"], template_dropout=0.0)
    model = Recorder()
    make_trainer(tmp_path, 12, enable_checkpointing=False).fit(model, datamodule=data)
    ensembles = {e.ensemble.name: e for e in data.known}
    assert set(ensembles) == {"one", "two", "dimer", "three"}
    trained = {(s.name, s.model) for step in model.train_seen for s in step}
    assert trained == {(n, i) for n, e in ensembles.items() for i in e.given}
    # Templates are told by their coordinate sums.
    sums = {
        name: {i: float(x.double().sum()) for i, x in enumerate(e.ensemble.coordinates)}
        for name, e in ensembles.items()
    }
    for item in (s for step in model.train_seen for s in step):
        found = min(sums[item.name], key=lambda i: abs(sums[item.name][i] - item.template))
        assert sums[item.name][found] == pytest.approx(item.template, abs=1e-6)
        assert found in ensembles[item.name].given
        assert found != item.model
    assert {(s.name, s.model) for s in model.seen[0]} == {
        (n, i) for n, e in ensembles.items() for i in e.judged
    }
    assert {s.name for s in model.seen[1]} == {"apart"}
    for step in model.train_seen:
        assert len(step) == 4  # 2 proteins of 2 models


def test_predict_encodes_every_held_out_model_and_test_takes_every_protein_once(
    folder: Path, tmp_path: Path
) -> None:
    data = make_module(
        folder, families_held_out=["apart"], val_models_per_protein=1, held_out_fraction=0.4
    )
    trainer = make_trainer(tmp_path, 1, enable_checkpointing=False)
    counts = []
    for run in (trainer.validate, trainer.predict):
        model = Recorder()
        run(model, datamodule=data)  # type: ignore[operator]
        counts.append((len(model.seen[0]), len(model.seen[1])))
    every = sum(len(e.judged) for e in data.known)
    assert every > 4
    assert counts == [(4, 1), (every, 5)]
    data.trainer = trainer
    cases = list(data.test_dataloader())
    assert sorted(case.name for case in cases) == sorted(
        e.ensemble.name for e in [*data.known, *data.unseen]
    )
    for case in cases:
        assert case.judged
        assert set(case.judged).isdisjoint(case.given)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_training_sees_what_the_uninterrupted_one_sees(
    folder: Path, tmp_path: Path, num_workers: int
) -> None:
    def train(root: Path, epochs: int, checkpoint: Path | None = None) -> Recorder:
        model, data = Recorder(), make_module(folder, num_workers=num_workers)
        saver = ModelCheckpoint(root, save_last=True, save_top_k=-1, every_n_epochs=1)
        trainer = make_trainer(root, epochs, callbacks=[saver], limit_val_batches=0)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        return model

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "half", 2)
    rest = train(tmp_path / "half", 4, tmp_path / "half" / "last.ckpt")
    assert len(whole.train_seen) == 16
    assert rest.train_seen == whole.train_seen[8:]
    assert whole.train_seen[:4] != whole.train_seen[4:8]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mapped_frames_are_drawn_as_those_in_memory_and_go_on_alike(
    tmp_path: Path, num_workers: int
) -> None:
    names = ["ALA", "GLY", "SER", "LEU", "VAL", "LYS", "GLU", "THR"]
    text, frames = topology_and_frames(names, 60)
    save(tmp_path / "md" / "long", text, run=frames)

    def train(root: str, epochs: int, cache: Path | None, resume: bool = False) -> Recorder:
        model = Recorder()
        data = grouped(
            trajectories=(str(tmp_path / "md"),),
            cache=None if cache is None else str(cache),
            max_frames=None,
            blocks=TimeBlocks(5),
            batch_proteins=2,
            per_epoch=8,
            num_workers=num_workers,
        )
        saver = ModelCheckpoint(tmp_path / root, save_last=True)
        trainer = make_trainer(tmp_path / root, epochs, callbacks=[saver], limit_val_batches=1)
        checkpoint = tmp_path / root / "last.ckpt" if resume else None
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        (prepared,) = data.known
        assert isinstance(prepared.ensemble.coordinates, MappedFrames) == (cache is not None)
        drawn = {seen.model for step in model.train_seen for seen in step}
        assert drawn <= set(prepared.given)
        assert model.seen[0]
        assert {seen.model for seen in model.seen[0]} <= set(prepared.judged)
        return model

    cache = tmp_path / "kept"
    whole = train("memory", 4, None)
    train("half", 2, cache)
    rest = train("half", 4, cache, resume=True)
    assert len(whole.train_seen) == 16
    assert rest.train_seen == whole.train_seen[8:]


def loaders(folder: Path, world: int, rank: int) -> tuple[list[list[Seen]], list[Seen]]:
    """Training steps of epoch 0 and validation items of one process of ``world``."""
    data = make_module(folder, batch_proteins=4, scaling="batch")
    data.prepare_data()
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world, global_rank=rank
    )
    steps = [items_of(batch) for batch in data.train_dataloader()]
    return steps, [item for batch in data.val_dataloader()[0] for item in items_of(batch)]


def test_processes_share_the_steps_of_one(folder: Path) -> None:
    (alone, judged), *ranks = (loaders(folder, w, r) for w, r in ((1, 0), (2, 0), (2, 1)))
    assert [len(steps) for steps, _ in ranks] == [len(alone)] * 2
    for step, whole in enumerate(alone):
        parts = [item for steps, _ in ranks for item in steps[step]]
        assert sorted(map(str, parts)) == sorted(map(str, whole))
    halves = [items for _, items in ranks]
    assert len(halves[0]) == len(halves[1])
    counted = [item for items in halves for item in items if item.weight > 0]
    assert sorted(map(str, counted)) == sorted(map(str, judged))
