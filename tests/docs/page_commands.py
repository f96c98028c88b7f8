"""The shell blocks of a page: commands of this project in this process, all else by bash.

A process of its own costs seconds of imports.  bash expands the words of a command either way, so
quotes, patterns and continued lines mean what they mean to a user.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from page_blocks import ROOT, Block

import common.bootstrap.__main__ as bootstrap
from common.cli import edgewise
from common.cli.main import main as lightning_main
from spatial_ipa.pipeline import __main__ as pipeline

Run = Callable[[list[str]], None]

TISSUE = {"num_slides": 5, "spots_per_slide": 80, "num_genes": 120, "num_cells": 90}
"""Sizes of the tissue that commands simulate."""

_PLAIN = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(edgewise|lightning|python3?) ")
_TORCHRUN = re.compile(r"^torchrun .*? -m common\.cli ")
# What only a shell does; and with several devices Lightning starts the command once more.
_BASH = re.compile(r"[|&;<>]|\$\(|--trainer\.devices[ =][2-9]")


def commands(text: str) -> list[str]:
    """The commands of a block, continued lines joined, comments and blank lines left out."""
    joined = re.sub(r" *\\\n *", " ", text)
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def words(command: str, folder: Path) -> list[str]:
    """The words that bash makes of a command."""
    done = subprocess.run(
        ["bash", "-c", f"args() {{ printf '%s\\0' \"$@\"; }}; args {command}"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split("\0")[:-1]


def run_block(block: Block, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Run a block in ``folder``, which is the working directory."""
    lines = commands(block.text)
    if not all(_PLAIN.match(line) and not _BASH.search(line) for line in lines):
        _by_bash(block, folder)
        return
    for line in lines:
        found = words(line, folder)
        while "=" in found[0]:
            name, _, value = found.pop(0).partition("=")
            patch.setenv(name, value)
        run = _here(found)
        if run is None:
            _by_bash(block, folder)
            return
        run([*_arguments(found), *block.append])


def check_block(block: Block, folder: Path) -> None:
    """Check a block that is not run: its syntax, and that each option of our commands exists."""
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for line in commands(block.text):
        line = _TORCHRUN.sub("lightning ", line)
        if not _PLAIN.match(line + " "):
            continue
        found = words(line, folder)
        name, arguments = Path(found[0]).name, _arguments(found)
        if name == "edgewise":
            known, _ = edgewise.load_commands(edgewise.entry_points(group=edgewise.GROUP))
            edgewise.make_parser(known).parse_args(arguments)
        elif name == "lightning":
            _prints(lightning_main, [*arguments, "--print_config"])
        elif _is_module(found, "common.bootstrap"):
            bootstrap_here(arguments)
        else:
            assert found[1].endswith(".py"), f"{block.where}: nothing checks `{line}`"
            _parses(ROOT / found[1], found[2:])


def _arguments(found: Sequence[str]) -> list[str]:
    """What comes after the program, or after the module of ``python -m``."""
    return list(found[3:] if found[1:2] == ["-m"] else found[1:])


def _is_module(found: Sequence[str], name: str) -> bool:
    return list(found[1:3]) == ["-m", name]


def _here(found: Sequence[str]) -> Run | None:
    """How to run a command in this process; None if it is not one of ours."""
    name = Path(found[0]).name
    if name == "edgewise":
        return edgewise.main
    if name == "lightning":
        return _lightning
    if _is_module(found, "common.bootstrap"):
        return bootstrap_here
    if _is_module(found, "spatial_ipa.pipeline"):
        return _pipeline
    return None


def run_stage_here(arguments: Sequence[str]) -> None:
    """:func:`common.training.stage.run_stage` without a process of its own."""
    _lightning(list(arguments))


def _lightning(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning"])  # Lightning warns of arguments beside argv
        lightning_main(arguments)


def _pipeline(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pipeline", *arguments])
        pipeline.main()


def bootstrap_here(arguments: list[str]) -> None:
    """What comes after set-up, on a small tissue; ``setup`` and ``test`` are read only."""
    options, forwarded = bootstrap.parse(arguments)
    if options.command == "run":
        simulated = not any(word.startswith("--slides") for word in forwarded)
        sizes = [f"--tissue.{name}={size}" for name, size in TISSUE.items()]
        _pipeline([*forwarded, *(sizes if simulated else ())])


def _prints(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """The command prints the configuration it would run with, so every option is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning"])
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert not ended.value.code


def _parses(script: Path, arguments: Sequence[str]) -> None:
    """A script takes these arguments; it ends once they are parsed."""
    with pytest.MonkeyPatch.context() as patch:
        parse = argparse.ArgumentParser.parse_args

        def parse_only(parser: argparse.ArgumentParser, *given: Any) -> None:
            parse(parser, *given)
            raise SystemExit(0)

        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.setattr(sys, "argv", [str(script), *arguments])
        patch.syspath_prepend(script.parent)  # as Python does for a script
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code


def _by_bash(block: Block, folder: Path) -> None:
    assert not block.append, f"{block.where}: append= is for blocks of our commands only"
    tools = folder / ".bin"
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.where}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def write_tools(folder: Path) -> None:
    """The commands of an installed environment, of this repository, for bash."""
    folder.mkdir()
    for name, module in (("edgewise", "common.cli.edgewise"), ("lightning", "common.cli")):
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        tool.chmod(0o755)
