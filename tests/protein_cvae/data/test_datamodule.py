"""From files to batches: what is read, what is refused, resume, processes, checkpoints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import mdtraj
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import DrawSettings, SimulationSettings, Sources, SplitSettings
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.io import write_ensemble
from protein_cvae.residues import ALPHABET

# (residues of each chain, models)
PROTEINS = {
    "one": ((30,), 6),
    "two": ((42,), 8),
    "dimer": ((25, 36), 5),
    "three": ((55,), 7),
    "apart": ((33,), 6),
}


def make_ensemble(name: str, chains: tuple[int, ...], models: int) -> Ensemble:
    """Helices with noise on their torsions; a sequence of its own for each chain."""
    rng = np.random.default_rng(list(name.encode()))
    length = sum(chains)
    index = torch.repeat_interleave(torch.arange(len(chains)), torch.tensor(chains))
    bonded = torch.cat([index[1:] == index[:-1], torch.tensor([False])])
    helix = torch.tensor([-1.1, -0.75, np.pi])[:, None, None]
    noise = torch.tensor(0.1 * rng.normal(size=(3, models, length)))
    xyz = build_backbone(Torsions(*(helix + noise)), bonded.expand(models, -1))
    xyz = xyz + 40.0 * index[:, None, None]  # chains apart
    return Ensemble(
        name=name,
        coordinates=xyz.float(),
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence="".join(rng.choice(list(ALPHABET), length)),
        chain_index=index,
        chain_ids=tuple("ABC"[: len(chains)]),
        residue_numbers=torch.cat([torch.arange(1, n + 1) for n in chains]),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="test",
        model_numbers=tuple(range(1, models + 1)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures")
    for i, (name, (chains, models)) in enumerate(PROTEINS.items()):
        suffix = (".pdb", ".cif.gz")[i % 2]
        write_ensemble(folder / f"{name}{suffix}", make_ensemble(name, chains, models))
    return folder


def grouped(**flat: Any) -> EnsembleDataModule:
    """The data module with the fields of its settings given by name; ``split_seed`` is one."""
    groups: dict[str, Any] = {}
    for group, kind in (("sources", Sources), ("draws", DrawSettings), ("split", SplitSettings)):
        own = {name: flat.pop(name) for name in kind.__dataclass_fields__ if name in flat}
        if group == "split" and "split_seed" in flat:
            own["seed"] = flat.pop("split_seed")
        groups[group] = kind(**own)
    return EnsembleDataModule(**groups, **flat)


def make_module(folder: Path, **options: Any) -> EnsembleDataModule:
    settings: dict[str, Any] = {"batch_proteins": 2, "per_epoch": 8}
    return grouped(structures=(str(folder),), **(settings | options))


@dataclass(frozen=True)
class Seen:
    """What tells one item from another."""

    name: str
    model: int
    template: float
    weight: float


class Recorder(pl.LightningModule):
    """Records every item of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))
        self.train_seen: list[list[Seen]] = []
        self.seen: dict[int, list[Seen]] = {}

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> torch.Tensor:
        self.train_seen.append(items_of(batch))
        return (batch.coordinates[batch.mask] + self.shift).square().mean()

    def validation_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.setdefault(dataloader_idx, []).extend(items_of(batch))

    test_step = validation_step

    def predict_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> str:
        self.validation_step(batch, batch_idx, dataloader_idx)
        return "seen"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def items_of(batch: ProteinBatch) -> list[Seen]:
    batch.check()
    template = (batch.template * batch.template_mask[..., None, None]).double().sum((1, 2, 3))
    columns = (batch.names, batch.model.tolist(), template.tolist(), batch.weight.tolist())
    return [Seen(*row) for row in zip(*columns, strict=True)]


def make_trainer(root: Path, epochs: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=root,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


# -- reading ------------------------------------------------------------------------------------


def test_files_become_ensembles_of_the_longest_chain(folder: Path) -> None:
    found = {e.name: e for e in make_module(folder).read()}
    assert {name: (e.length, e.num_models) for name, e in found.items()} == {
        name: (max(chains), models) for name, (chains, models) in PROTEINS.items()
    }
    wanted = make_ensemble("dimer", *PROTEINS["dimer"]).select_chain(1)
    assert found["dimer"].sequence == wanted.sequence
    torch.testing.assert_close(found["dimer"].coordinates, wanted.coordinates, rtol=0, atol=2e-3)
    whole = {e.name: e.length for e in make_module(folder, chains="all").read()}
    assert whole["dimer"] == 61


def test_trajectories_have_names_of_their_own_and_so_many_frames(
    folder: Path, tmp_path: Path
) -> None:
    ensemble = make_ensemble("two", *PROTEINS["two"])
    (tmp_path / "md" / "two").mkdir(parents=True)
    topology = tmp_path / "md" / "two" / "topology.pdb"
    write_ensemble(topology, ensemble.select_models([0]))
    trajectory = mdtraj.load(str(topology))
    backbone = trajectory.topology.select("name N CA C")
    frames = trajectory.atom_slice(backbone)
    xyz = ensemble.coordinates.flatten(1, 2).numpy() / 10
    frames.save_pdb(str(topology))
    mdtraj.Trajectory(xyz, frames.topology).save_xtc(str(topology.with_name("run.xtc")))
    data = make_module(folder, trajectories=[str(tmp_path / "md")], max_frames=6)
    found = {e.name: e for e in data.read()}
    assert set(found) == {*PROTEINS, "md_two"}
    assert found["md_two"].num_models == 6
    # The simulation of an unseen protein is unseen, too.
    data = make_module(
        folder, trajectories=[str(tmp_path / "md")], max_frames=6, families_held_out=["two"]
    )
    data.setup("fit")
    assert {e.ensemble.name for e in data.unseen} == {"two", "md_two"}


def test_without_paths_ensembles_are_simulated(tmp_path: Path) -> None:
    settings = SimulationSettings(num_proteins=3, num_models=5, min_length=24, max_length=30)
    data = grouped(simulate=settings, families_held_out=["simulated_0_1"], per_epoch=4)
    model = Recorder()
    make_trainer(tmp_path, 1, enable_checkpointing=False).fit(model, datamodule=data)
    assert {e.ensemble.name for e in data.known} == {"simulated_0_0", "simulated_0_2"}
    assert all(24 <= e.ensemble.length <= 30 for e in data.known)
    assert {s.name for step in model.train_seen for s in step} == {"simulated_0_0", "simulated_0_2"}
    assert {s.name for s in model.seen[1]} == {"simulated_0_1"}


def test_residues_that_no_model_has_are_left_out(tmp_path: Path) -> None:
    ensemble = make_ensemble("one", *PROTEINS["one"])
    mask = ensemble.mask.clone()
    mask[:, 10] = False  # in no model
    mask[2, 20] = False  # in one model
    xyz = torch.where(mask[..., None, None], ensemble.coordinates, 0.0)
    write_ensemble(tmp_path / "one.pdb", replace(ensemble, coordinates=xyz, mask=mask))
    read = grouped(structures=[str(tmp_path)]).read()[0]
    assert read.length == 29
    assert (~read.mask).nonzero().tolist() == [[2, 19]]
    assert not bool(read.bonded[9])


def test_what_is_too_long_or_too_small_is_named(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"left out .*dimer \(5 models\).*three \(55 residues\)"):
        kept = make_module(folder, min_models=6, max_length=50).read()
    assert {e.name for e in kept} == {"one", "two", "apart"}
    with pytest.raises(ValueError, match=r"no ensemble has min_models 9.*one \(6 models\)"):
        make_module(folder, min_models=9).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"batch_proteins": 0}, "batch_proteins must be at least 1"),
        ({"template_dropout": 1.5}, r"template_dropout must lie in \[0, 1\], got 1.5"),
        ({"held_out_fraction": -0.1}, "held_out_fraction must lie"),
        ({"chains": "first"}, "chains must be 'longest' or 'all', got 'first'"),
        ({"families_held_out": ["one"], "held_out_fraction": 0.0}, "must be positive with"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouped(**options)


def test_bad_data_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data: give files.*structures"):
        EnsembleDataModule(simulate=None).prepare_data()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        grouped(structures=[str(tmp_path / "nowhere")]).prepare_data()
    with pytest.raises(ValueError, match="names nobody"):
        make_module(folder, families_held_out=["nobody"]).prepare_data()
    with pytest.raises(ValueError, match=r"models_per_protein 5 .*dimer \(4\)"):
        make_module(folder, models_per_protein=5).prepare_data()
    (tmp_path / "one.pdb").write_text("HEADER\n")
    with pytest.raises(ValueError, match=r"one\.pdb"):
        grouped(structures=[str(folder), str(tmp_path)]).prepare_data()
    single = make_ensemble("one", *PROTEINS["one"]).select_models([0])
    write_ensemble(tmp_path / "one.pdb", single)
    data = grouped(
        structures=[str(folder / "two.cif.gz"), str(tmp_path)],
        min_models=1,
        families_held_out=["one"],
    )
    with pytest.raises(ValueError, match="unseen ensembles one have one model"):
        data.prepare_data()


# -- training -----------------------------------------------------------------------------------


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


def loaders(folder: Path, world: int, rank: int) -> tuple[list[list[Seen]], list[Seen]]:
    """Training steps of epoch 0 and validation items of one process of ``world``."""
    data = make_module(folder, batch_proteins=4 // world)
    data.prepare_data()
    progress = SimpleNamespace(total=SimpleNamespace(completed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world, global_rank=rank, fit_loop=loop
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


# -- checkpoints --------------------------------------------------------------------------------


class LetterEmbedder:
    """One-hot letters; stands in for a language model."""

    width = 20

    def __init__(self, identity: str = "letters") -> None:
        self.identity = identity

    def embed(self, sequences: list[str]) -> list[np.ndarray]:
        return [
            np.array([[float(a == letter) for a in ALPHABET] for letter in s], dtype=np.float32)
            for s in sequences
        ]


def test_embeddings_follow_their_residues_and_their_model_is_checked(folder: Path) -> None:
    data = make_module(folder, chains="all", embedder=LetterEmbedder())
    data.prepare_data()
    assert data.embedding_width == 20
    batch = data.train_dataset(1)[0]
    assert torch.equal(batch.embedding.argmax(-1), batch.aatype)
    assert make_module(folder).embedding_width == 0
    other = make_module(folder, chains="all", embedder=LetterEmbedder("other"))
    other.prepare_data()
    with pytest.raises(ValueError, match="embedder letters, the data have other"):
        other.check_record(data.record(), resume=False)


def test_settings_can_be_given_in_a_config(folder: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(EnsembleDataModule, "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        config = parser.parse_object(
            {
                "data": {
                    "class_path": "protein_cvae.EnsembleDataModule",
                    "init_args": {
                        "sources": {"structures": [str(folder)]},
                        "split": {"families": [["one", "two"]], "families_held_out": ["two"]},
                        "embedder": {
                            "class_path": "protein_cvae.EsmEmbedder",
                            "init_args": {"model": "some/folder"},
                        },
                    },
                }
            }
        )
        data = parser.instantiate_classes(config).data
    assert isinstance(data, EnsembleDataModule)
    assert data.embedder is not None
    data.embedder = None
    data.setup("fit")
    assert {e.ensemble.name for e in data.unseen} == {"one", "two"}
