"""From files to prepared ensembles: what is read, what is refused, settings, embeddings."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from protein_data import (
    PROTEINS,
    Recorder,
    grouped,
    make_ensemble,
    make_module,
    make_trainer,
)

from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.reports import write_reading
from protein_cvae.data.settings import SimulationSettings
from protein_cvae.io import write_ensemble
from protein_cvae.residues import ALPHABET


@pytest.fixture(scope="module")
def folder(protein_folder: Path) -> Path:
    return protein_folder


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


def test_all_bad_files_are_named_in_one_message_or_left_out(folder: Path, tmp_path: Path) -> None:
    for name, text in (("empty.pdb", ""), ("none.cif", "data_x\n"), ("text.pdb", "lorem ipsum")):
        (tmp_path / name).write_text(text)
    sources = [str(folder), str(tmp_path)]
    with pytest.raises(ValueError, match=r"3 of \d+ files cannot be used: .*skip_bad") as caught:
        grouped(structures=sources).prepare_data()
    for name in ("empty.pdb: the file is empty", "none.cif: no _atom_site", "text.pdb: no ATOM"):
        assert name in str(caught.value)
    with pytest.warns(UserWarning, match=r"3 of \d+ files are left out: .*empty.*none.*text"):
        kept = grouped(structures=sources, skip_bad=True).read()
    assert {e.name for e in kept} == set(PROTEINS)
    with pytest.raises(ValueError, match=r"3 of 3 files cannot be used"):
        grouped(structures=[str(tmp_path)], skip_bad=True).read()


def test_equal_names_in_two_folders_get_their_folders(folder: Path, tmp_path: Path) -> None:
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        write_ensemble(tmp_path / place / "x.pdb", make_ensemble(place, *PROTEINS["one"]))
    write_ensemble(tmp_path / "first" / "y.pdb", make_ensemble("y", *PROTEINS["two"]))
    assert {e.name for e in grouped(structures=[str(tmp_path)]).read()} == {
        "first/x", "second/x", "y",
    }  # fmt: skip


def test_conformers_of_a_folder_are_one_ensemble(tmp_path: Path) -> None:
    whole = make_ensemble("one", *PROTEINS["one"])
    (tmp_path / "decoys").mkdir()
    for m in range(whole.num_models):
        write_ensemble(tmp_path / "decoys" / f"d{m}.pdb", whole.select_models([m]))
    with pytest.raises(ValueError, match=r"d0 \(1 models\).*sources\.conformers"):
        grouped(structures=[str(tmp_path)]).read()
    (found,) = grouped(conformers=[str(tmp_path / "decoys")]).read()
    assert (found.name, found.num_models) == ("decoys", whole.num_models)
    torch.testing.assert_close(found.coordinates, whole.coordinates, rtol=0, atol=2e-3)


def test_what_reading_did_is_told_and_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ensemble = make_ensemble("one", *PROTEINS["one"])
    mask = ensemble.mask.clone()
    mask[2, 20] = False
    xyz = torch.where(mask[..., None, None], ensemble.coordinates, 0.0)
    write_ensemble(tmp_path / "one.pdb", replace(ensemble, coordinates=xyz, mask=mask))
    data = grouped(structures=[str(tmp_path)])
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data.setup("fit")
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("read ")]
    label = ensemble.label(20)
    assert (
        f"read one: 6 models, 30 residues of chain A; absent residue {label} (in 1 models)" in line
    )
    path = write_reading(tmp_path / "out.json", data.ensembles)
    (found,) = json.loads(path.read_text())["read"]
    assert found["notes"] == [
        {"kind": "absent residue", "model": 3, "residue": label,
         "detail": "not in this model; masked"}
    ]  # fmt: skip


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
