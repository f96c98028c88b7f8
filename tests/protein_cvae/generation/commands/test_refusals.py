"""What the tasks refuse, by name and before any model runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from protein_runs import (
    SIZES,
    Command,
    all_inside,
    generate_data,
    made_of,
    structure_file,
    tiny_module,
    tiny_network,
)

from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.encode import EncodeDataModule
from protein_cvae.generation.commands.generate import GenerateDataModule
from protein_cvae.generation.commands.interpolate import InterpolateDataModule, PathEnds
from protein_cvae.generation.encode import encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import prepare
from protein_cvae.generation.interpolate import InterpolateOptions
from protein_cvae.io import write_ensemble
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

# The checkpoint brings its sizes in place of the defaults.
pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")


class FakeEmbedder:
    """One-hot letters."""

    def __init__(self, width: int = 21, identity: str = "letters") -> None:
        self.width, self.identity = width, identity

    def embed(self, sequences: Sequence[str]) -> list[np.ndarray]:
        letters = "ACDEFGHIKLMNPQRSTVWYX"
        return [
            np.stack([np.eye(self.width, dtype=np.float32)[letters.index(c)] for c in sequence])
            for sequence in sequences
        ]


class EmbedderModule(ProteinCVAEModule):
    """As if trained with the embedder called "letters"."""

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["protein_cvae_data"] = {"embedder": "letters"}


def test_the_embedder_is_that_of_the_training(protein: Ensemble, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = EmbedderModule(NetworkSettings(d_embedding=21, **SIZES))  # type: ignore[arg-type]
    made = generate(module.model, protein, GenerateOptions("prior", count=2), FakeEmbedder())
    assert all_inside(made)
    with pytest.raises(ValueError, match="width 21, none is given"):
        generate(module.model, protein)
    with pytest.raises(ValueError, match="width 21, one of width 22 is given"):
        encode_models(module.model, protein, embedder=FakeEmbedder(22))
    with pytest.raises(ValueError, match="learned without a sequence embedder"):
        generate(tiny_network(), protein, embedder=FakeEmbedder())

    write_ensemble(tmp_path / "given.pdb", protein)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for identity in ("letters", "other"):
        data = GenerateDataModule(
            str(tmp_path / f"{identity}.pdb"),
            str(tmp_path / "given.pdb"),
            options=GenerateOptions(count=1),
            embedder=FakeEmbedder(identity=identity),
        )
        if identity == "other":
            with pytest.raises(ValueError, match="trained with letters, given is other"):
                trainer.predict(module, data, ckpt_path=tmp_path / "model.ckpt")
            assert not (tmp_path / "other.pdb").exists()
        else:
            trainer.predict(module, data, ckpt_path=tmp_path / "model.ckpt")
            summary = json.loads((tmp_path / "letters.pdb.json").read_text())
            assert summary["embedder"] == "letters"


def spoiled(protein: Ensemble, model: int, residue: int) -> Ensemble:
    coordinates, mask = protein.coordinates.clone(), protein.mask.clone()
    coordinates[model, residue], mask[model, residue] = 0.0, False
    return made_of(protein, coordinates=coordinates, mask=mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be finite and not negative, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"bandwidth": 1.5}, r"bandwidth must lie in \[0, 1\], got 1.5"),
        ({"mode": "all"}, "mode must be one of resample, around, prior, sequence, got 'all'"),
        ({"mode": "sequence", "model": 3}, "model 3: mode sequence uses no model"),
        ({"output": "made.xyz"}, r"made.xyz: suffix '.xyz' is not known"),
        ({"input": None}, "give either input or sequence"),
        ({"sequence": "ACD"}, "not both"),
        ({"input": None, "sequence": "ACD"}, "mode resample needs a structure"),
    ],
)
def test_options_of_generate(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_data("made.pdb", **({"input": "given.pdb"} | options))


def test_options_of_the_others() -> None:
    with pytest.raises(ValueError, match="steps must be at least 2, both ends, got 1"):
        InterpolateOptions(steps=1)
    with pytest.raises(ValueError, match="templates must be 'both' or 'first', got 'second'"):
        InterpolateOptions(templates="second")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"latents.csv must end in .npz"):
        EncodeDataModule("a.pdb", "latents.csv")


def test_outputs_that_exist_or_are_inputs(tmp_path: Path, protein: Ensemble) -> None:
    given = tmp_path / "given.pdb"
    write_ensemble(given, protein)
    with pytest.raises(FileExistsError, match=r"given.pdb exists; choose another output"):
        GenerateDataModule(str(given), str(given))
    with pytest.raises(ValueError, match=r"given.pdb is an input file"):
        GenerateDataModule(str(given), str(given), overwrite=True)
    (tmp_path / "made.pdb.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"made.pdb.json exists"):
        GenerateDataModule(str(tmp_path / "made.pdb"), str(given))
    (tmp_path / "folder.pdb").mkdir()
    with pytest.raises(ValueError, match=r"output must name a file, but .*folder.pdb is a folder"):
        GenerateDataModule(str(tmp_path / "folder.pdb"), str(given))


def test_inputs_that_cannot_be_used(tmp_path: Path, protein: Ensemble) -> None:
    given, out = tmp_path / "given.pdb", str(tmp_path / "made.pdb")
    write_ensemble(given, protein)

    def bad(
        message: str, kind: type[Exception] = ValueError, path: Path = given, **options: Any
    ) -> None:
        with pytest.raises(kind, match=message):
            generate_data(out, str(path), **options).read()

    bad("input: no such file or folder: .*nowhere.pdb", FileNotFoundError, tmp_path / "nowhere.pdb")
    bad("given.pdb: no chain 'Q'; chains must be .*A \\(26 residues\\)", chains="Q")
    bad("given.pdb: model 9: no such model; the file has 6: 1, 2, 3", model=9, mode="around")
    bad("made.pdb: model number 10000: it does not fit the columns of PDB", count=10_000)

    one = tmp_path / "one.pdb"
    write_ensemble(one, protein.select_models([2]))
    bad("one.pdb: mode resample needs at least 2 models, the file has 1", path=one)
    with pytest.raises(ValueError, match=r"one.pdb: both ends are model 3; a path needs two"):
        InterpolateDataModule(str(one), out).read()

    short = tmp_path / "short.pdb"
    write_ensemble(short, protein.select_residues(torch.arange(26) < 3))
    bad("short.pdb: 3 residues in chain A; the model takes 4 to 1000", path=short)

    holes = tmp_path / "holes.cif"
    write_ensemble(holes, spoiled(protein, 3, 9))
    label = protein.label(9)
    bad(f"holes.cif: model 4, residue {label}: N, CA or C is missing", path=holes)
    bad(f"model 4, residue {label}", path=holes, mode="prior", model=4)
    assert generate_data(out, str(holes), mode="prior", model=3).read().ensemble.length == 26
    dropped = generate_data(out, str(holes), incomplete="drop").read().ensemble
    assert dropped.length == 25
    assert not dropped.bonded[8]
    with pytest.raises(ValueError, match=f"model 4, residue {label}"):
        EncodeDataModule(str(holes), str(tmp_path / "z.npz")).read()

    fasta = tmp_path / "given.fasta"
    fasta.write_text(">one\nACDEFGH\n>two\nACDEFGH\n")
    bad("given.fasta: a FASTA file holds no structure, which mode prior", path=fasta, mode="prior")
    bad("given.fasta: expected one FASTA record.* found 2", path=fasta, mode="sequence")
    fasta.write_text(">one\nACDBFGH\n")
    bad("given.fasta: sequence: letter 'B' at position 3", path=fasta, mode="sequence")
    fasta.write_text(">one\n" + "A" * 1001)
    bad("given.fasta: 1001 residues .* takes 4 to 1000", path=fasta, mode="sequence")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "given.fasta", "given.pdb", "holes.cif", "one.pdb", "short.pdb",
    ]  # fmt: skip


def test_ends_of_a_path_that_do_not_agree(tmp_path: Path, protein: Ensemble) -> None:
    first, second = tmp_path / "first.pdb", tmp_path / "second.pdb"
    write_ensemble(first, protein)
    other = ("A" if protein.sequence[7] != "A" else "G").join(
        [protein.sequence[:7], protein.sequence[8:]]
    )
    write_ensemble(second, made_of(protein, sequence=other))
    out = str(tmp_path / "path.pdb")
    with pytest.raises(ValueError, match=r"25 residues in common by sequence .*8 of .*first"):
        InterpolateDataModule(str(first), out, PathEnds(str(second))).read()
    write_ensemble(second, protein.select_residues(torch.arange(26) < 20))
    with pytest.raises(ValueError, match=r"20 residues in common by number.*first.pdb; set incom"):
        InterpolateDataModule(str(first), out, PathEnds(str(second))).read()
    with pytest.raises(ValueError, match=r"second.pdb: second_model 8: no such model"):
        InterpolateDataModule(str(first), out, PathEnds(str(second), second_model=8)).read()


def test_a_bad_command_says_so_in_one_line_and_writes_nothing(
    command: Command, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ({"chains": "Q"}, {"count": 0}, {"model": 77}):
        with pytest.raises(SystemExit) as stopped:
            command("generate", "made/made.pdb", input=structure_file(trained), **options)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert "error: " in error
        assert "Traceback" not in error
        assert next(iter(options)) in error.replace("no chain", "chains")
    assert not (tmp_path / "made").exists()


def test_predict_needs_one_of_these_data_modules(tmp_path: Path, protein: Ensemble) -> None:
    with pytest.raises(ValueError, match="one of GenerateDataModule, InterpolateDataModule and"):
        tiny_module().predict_step(prepare(protein, None).item(0, 1), 0)  # type: ignore[arg-type]
    write_ensemble(tmp_path / "given.pdb", protein)
    data = GenerateDataModule(str(tmp_path / "made.pdb"), str(tmp_path / "given.pdb"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"needs protein_cvae\.ProteinCVAEModule, got Boring"):
        trainer.predict(BoringModel(), data)
    with pytest.warns(UserWarning, match="no --ckpt_path is given"):
        trainer.predict(tiny_module(), data)
    assert (tmp_path / "made.pdb").is_file()
