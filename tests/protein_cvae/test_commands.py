"""The short commands give what the long ones give, byte by byte."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from protein_data import make_ensemble
from protein_runs import Command, structure_file

from protein_cvae import commands, fitting
from protein_cvae import trained as use
from protein_cvae.ensemble import Ensemble
from protein_cvae.io import read_structure, write_ensemble

pytestmark = pytest.mark.filterwarnings("ignore:--ckpt_path restores")
BY_PATH = {command.path: command for command in commands.COMMANDS}


def edgewise(*words: object) -> None:
    """Run ``edgewise`` with these words, in this process."""
    given = list(map(str, words))
    path = tuple(given[:2]) if tuple(given[:2]) in BY_PATH else tuple(given[:1])
    parser = ArgumentParser()
    BY_PATH[path].add_arguments(parser)
    BY_PATH[path].run(parser.parse_args(given[len(path) :]))


def summaries(*paths: Path) -> list[object]:
    return [json.loads(Path(f"{path}.json").read_text()) for path in paths]


def test_generate(
    command: Command, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, ckpt, ours = structure_file(trained), trained / "model.ckpt", tmp_path / "new/ours.pdb"
    edgewise("generate", given, "-n", 3, "-o", ours, "--seed", 5, "--ckpt", ckpt)
    assert f"wrote {ours} and {ours}.json" in capsys.readouterr().out
    theirs = command("generate", "theirs.pdb", input=given, count=3, seed=5)
    assert ours.read_bytes() == theirs.read_bytes()
    first, second = summaries(ours, theirs)
    assert first == second
    with pytest.raises(FileExistsError, match=r"ours\.pdb exists"):
        edgewise("generate", given, "-o", ours, "--ckpt", ckpt)
    edgewise(
        *("generate", given, "-n", 2, "-o", ours, "--mode", "prior", "--model-number", 2),
        *("--temperature", 0.5, "--no-finish", "--overwrite", "--ckpt", ckpt),
    )
    options = {"mode": "prior", "model": 2, "temperature": 0.5, "finish": "false"}
    theirs = command("generate", "prior.pdb", input=given, count=2, **options)
    assert ours.read_bytes() == theirs.read_bytes()


def test_generate_as_wide_as_told(command: Command, trained: Path, tmp_path: Path) -> None:
    given, ckpt, ours = structure_file(trained), trained / "model.ckpt", tmp_path / "ours.pdb"
    words = ("generate", given, "-n", 16, "-o", ours, "--mode", "prior", "--ckpt", ckpt)
    edgewise(*words, "--spread-rmsd", 1.5)
    theirs = command(
        "generate", "told.pdb", input=given, count=16, mode="prior", spread="{rmsd: 1.5}"
    )
    assert ours.read_bytes() == theirs.read_bytes()
    first, second = summaries(ours, theirs)
    assert first == second
    assert first["options"]["spread"]["rmsd"] == 1.5  # type: ignore[index]
    assert first["told"]["rmsd"] == 1.5  # type: ignore[index]
    assert first["told"]["rmsd_reached"] == pytest.approx(1.5, rel=0.1)  # type: ignore[index]
    profile = tmp_path / "rmsf.tsv"
    read = read_structure(given)
    lines = [f"{read.label(i).split()[0]}\t{int(read.residue_numbers[i])}\t{1 + i / 20}"
             for i in range(read.length)]  # fmt: skip
    profile.write_text("\n".join(["chain\tresidue\trmsf", *lines]))
    edgewise(*words, "--overwrite", "--spread-file", profile, "--spread-superposed", "all")
    (told,) = summaries(ours)
    assert told["options"]["spread"]["superposed"] == "all"  # type: ignore[index]
    assert told["told"]["correlation"] > 0.95  # type: ignore[index]


def test_interpolate(command: Command, trained: Path, tmp_path: Path) -> None:
    given, ours = structure_file(trained), tmp_path / "ours.cif"
    edgewise(
        *("interpolate", given, "-n", 4, "-o", ours, "--first-model", 2, "--templates", "first"),
        *("--ckpt", trained / "model.ckpt"),
    )
    theirs = command(
        "interpolate", "theirs.cif", input=given, steps=4, first_model=2, templates="first"
    )
    assert ours.read_bytes() == theirs.read_bytes()
    first, second = summaries(ours, theirs)
    assert first == second


def test_encode(command: Command, trained: Path, tmp_path: Path) -> None:
    given, ours = structure_file(trained), tmp_path / "ours.npz"
    edgewise("encode", given, "-o", ours, "--template", 2, "--ckpt", trained / "model.ckpt")
    theirs = command("encode", "theirs.npz", input=given, template=2)
    with np.load(ours) as a, np.load(theirs) as b:
        assert list(a) == list(b)
        assert all(np.array_equal(a[name], b[name]) for name in a)
    first, second = summaries(ours, theirs)
    assert first == second


def write_conformers(folder: Path, models: list[Ensemble]) -> str:
    """A file for each; every folder has the same name, as the draws go by it."""
    folder = folder / "protein"
    folder.mkdir(parents=True)
    for m, model in enumerate(models):
        write_ensemble(folder / f"c{m}.pdb", replace(model, model_numbers=(1,)))
    return str(folder)


def test_evaluate_matches_models_that_are_numbered_otherwise(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One without its first residue, numbered from 1; one with a mutation: as matched by hand."""
    whole = make_ensemble("whole", (26,), 7)
    models = [whole.select_models([m]) for m in range(7)]
    keep = torch.ones(26, dtype=torch.bool)
    keep[0] = False
    models[2] = models[2].select_residues(keep)
    models[2] = replace(models[2], residue_numbers=torch.arange(1, 26))
    letter = "W" if whole.sequence[9] != "W" else "A"
    models[4] = replace(models[4], sequence=whole.sequence[:9] + letter + whole.sequence[10:])
    given = write_conformers(tmp_path / "given", models)
    keep[9] = False
    common = whole.select_residues(keep)
    by_hand = write_conformers(tmp_path / "hand", [common.select_models([m]) for m in range(7)])
    quick = ("-n", 2, "--figures", 0, "--ckpt", trained / "model.ckpt", "--conformers")
    words = ("evaluate", "protein", "-o", tmp_path / "a", *quick, given)
    mutant = models[4].label(9)
    with pytest.raises(
        ValueError, match=rf"c4\.pdb \(model 5\) have .*{mutant} of .*incomplete: drop"
    ):
        edgewise(*words)
    assert not (tmp_path / "a").exists()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        edgewise(*words, "--incomplete", "drop")
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("read ")]
    first, ninth = whole.label(0), whole.label(9)
    assert f"; left out {mutant} (in 1 models)" in line
    assert f"; left out of evaluation {first}, {ninth}" in line
    edgewise("evaluate", "protein", "-o", tmp_path / "b", *quick, by_hand)
    ours, theirs = (
        [
            {key: value for key, value in json.loads(row).items() if key != "seconds"}
            for row in (tmp_path / name / "evaluation.jsonl").read_text().splitlines()
        ]
        for name in "ab"
    )
    left_out = [first, ninth, f"{mutant} of c4.pdb"]
    assert all(row.pop("left_out") == left_out for row in ours)
    assert all(row.pop("left_out") == [] for row in theirs)
    assert ours == theirs
    text = (tmp_path / "a/evaluation.md").read_text()
    assert f"protein: not scored, as not all models have them, are {', '.join(left_out)}." in text
    (read,) = json.loads((tmp_path / "a/reading.json").read_text())["read"]
    kinds = {(n["kind"], n["model"], n["residue"]) for n in read["notes"] if "left" in n["kind"]}
    evaluation = "left out of evaluation"
    assert kinds == {("left out", 5, mutant), (evaluation, None, first), (evaluation, None, ninth)}


def test_evaluate_refuses_or_leaves_out_what_a_model_lacks(trained: Path, tmp_path: Path) -> None:
    """With the same numbers, which training would mask."""
    whole = make_ensemble("whole", (26,), 6)
    keep = torch.arange(26) < 25
    models = [whole.select_models([m]) for m in range(6)]
    models[3] = models[3].select_residues(keep)
    given = write_conformers(tmp_path, models)
    words = ("-n", 2, "--figures", 0, "--ckpt", trained / "model.ckpt", "--conformers", given)
    with pytest.raises(
        ValueError, match=rf"model 4, which is of c3\.pdb, lacks .*{whole.label(25)};"
    ):
        edgewise("evaluate", "protein", "-o", tmp_path / "a", *words)
    assert not (tmp_path / "a").exists()
    edgewise("evaluate", "protein", "-o", tmp_path / "a", *words, "--incomplete", "drop")
    assert f"are {whole.label(25)}." in (tmp_path / "a/evaluation.md").read_text()


def test_fit_and_evaluate_call_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those functions are compared with ``lightning fit`` and ``test`` in test_api."""
    called: dict[str, tuple[object, ...]] = {}

    class Model:
        checkpoint = Path("mine/protein_cvae.ckpt")

        def evaluate(self, *given: object, **named: object) -> None:
            called["evaluate"] = (*given, named["sources"].max_length)  # type: ignore[attr-defined]

    def fit(*given: object, **named: object) -> Model:
        called["fit"] = (*given, *named.values())
        return Model()

    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(use, "load", lambda path, device: Model())
    edgewise("fit", "protein", "a.pdb", "b.pdb", "-o", "mine", "--size", "full", "--epochs", 2)
    files = (["a.pdb", "b.pdb"], Path("mine"), "full", 2, [], "auto")
    assert called["fit"] == (*files, (), None, "longest", False, "refuse")
    edgewise("fit", "protein", "a.pdb", "-o", "mine", "--chains", "all")
    assert called["fit"][-3:] == ("all", False, "refuse")
    edgewise(
        *("fit", "protein", "-o", "mine", "--conformers", "x", "y", "--topology", "p.gro"),
        *("--skip-bad", "--incomplete", "drop"),
    )
    assert called["fit"][-5:] == (("x", "y"), "p.gro", "longest", True, "drop")
    edgewise("evaluate", "protein", "a.pdb", "-n", 7, "-o", "there", "--figures", 0)
    files, out, settings, longest = called["evaluate"]
    assert (files, out, longest) == (["a.pdb"], Path("there"), 400)
    assert (settings.count, settings.figures) == (7, 0)  # type: ignore[attr-defined]
