"""The short commands give what the long ones give, byte by byte."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from protein_runs import Command, structure_file

from protein_cvae import commands, fitting
from protein_cvae import trained as use

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
    assert called["fit"] == (*files, (), None, False)
    edgewise(
        *("fit", "protein", "-o", "mine", "--conformers", "x", "y", "--topology", "p.gro"),
        "--skip-bad",
    )
    assert called["fit"][-3:] == (("x", "y"), "p.gro", True)
    edgewise("evaluate", "protein", "a.pdb", "-n", 7, "-o", "there", "--figures", 0)
    files, out, settings, longest = called["evaluate"]
    assert (files, out, longest) == (["a.pdb"], Path("there"), 400)
    assert (settings.count, settings.figures) == (7, 0)  # type: ignore[attr-defined]
