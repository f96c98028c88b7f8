"""The ``edgewise`` command: toy verbs, broken packages, errors of one line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from common.cli import edgewise
from common.cli.command import Command
from common.cli.messages import TRACEBACK_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = """
from common.cli.command import Command
from common.errors import UserError


def add(parser):
    parser.add_argument("name")
    parser.add_argument("--count", type=int, default=1)


def run(options):
    import torch  # heavy: only when a verb runs

    if options.count < 1:
        raise UserError("--count must be at least 1")
    if options.count > 9:
        raise KeyError("a defect")
    print("ran", " ".join([options.name] * options.count))


COMMANDS = [
    Command(("greet",), "Greet somebody.", add, run),
    Command(("fit", "toy"), "Fit a toy.", add, run),
]
ONE = Command(("fit", "other"), "Fit another.", add, run)
NOTHING = "text"
AGAIN = Command(("greet",), "Greet again.", add, run)
BELOW = Command(("greet", "twice"), "Greet twice.", add, run)
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that are installed; a test adds to them."""
    (tmp_path / "toy_verbs.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    points = [point("toy", "toy_verbs:COMMANDS"), point("other", "toy_verbs:ONE")]
    monkeypatch.setattr(edgewise, "entry_points", lambda group: points)
    return points


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, edgewise.GROUP)


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a command that fails with status 2 says."""
    with pytest.raises(SystemExit) as stop:
        edgewise.main(args)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("path", [("greet",), ("fit", "toy"), ("fit", "other")])
def test_a_verb_runs(
    packages: list[EntryPoint], capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    edgewise.main([*path, "you", "--count", "2"])
    assert capsys.readouterr() == ("ran you you\n", "")


def test_help_lists_the_verbs(
    packages: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    for args, words in (
        (["--help"], ["greet", "Greet somebody.", "fit", "one of: other, toy"]),
        (["fit", "--help"], ["Fit a toy.", "Fit another."]),
        (["fit", "toy", "--help"], ["--count"]),
    ):
        with pytest.raises(SystemExit) as stop:
            edgewise.main(args)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("args", "known"),
    [
        (("gret", "you"), ["invalid choice: 'gret'", "'fit', 'greet'"]),
        (("fit", "toys", "you"), ["invalid choice: 'toys'", "'other', 'toy'"]),
        ((), ["required: COMMAND"]),
        (("fit",), ["required: KIND_OF_FIT"]),
        (("greet",), ["required: name"]),
        (("greet", "you", "--coun", "2"), ["unrecognized arguments: --coun 2"]),
        (("greet", "you", "--count", "many"), ["invalid int value: 'many'"]),
    ],
)
def test_usage_errors_are_one_line(
    packages: list[EntryPoint],
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    known: list[str],
) -> None:
    message = failure(capsys, *args)
    assert len(message.splitlines()) == 1
    assert message.startswith("error: ")
    assert all(text in message for text in known), message


def test_errors_for_the_user_are_one_line_and_defects_are_not(
    packages: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    first = failure(capsys, "greet", "you", "--count", "0").splitlines()[0]
    assert first == "error: --count must be at least 1"
    with pytest.raises(KeyError):
        edgewise.main(["greet", "you", "--count", "10"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:COMMANDS", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("toy_verbs:missing", "AttributeError"),
        ("toy_verbs:NOTHING", "TypeError: expected a Command, got str"),
        ("toy_verbs:AGAIN", "ValueError: `greet` meets `greet`"),
        ("toy_verbs:BELOW", "ValueError: `greet twice` meets `greet`"),
    ],
)
def test_a_broken_package_is_named_and_the_others_work(
    packages: list[EntryPoint], capsys: pytest.CaptureFixture[str], value: str, reason: str
) -> None:
    packages.append(point("zebra", value))
    edgewise.main(["greet", "you"])
    out, err = capsys.readouterr()
    assert out == "ran you\n"
    assert err.startswith(f"warning: the commands of zebra ({value}) are broken: {reason}")
    assert len(err.splitlines()) == 1


def test_without_any_command(
    packages: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    packages.clear()
    assert "no installed package has commands" in failure(capsys, "--help")


def test_every_option_reaches_the_command() -> None:
    seen: list[argparse.Namespace] = []
    command = Command(("a", "b"), "Do.", lambda p: p.add_argument("--x", type=int), seen.append)
    options = edgewise.make_parser([command]).parse_args(["a", "b", "--x", "3"])
    options._command.run(options)
    assert seen[0].x == 3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom common.cli import edgewise\n"
        "from common.cli.command import Command\n"
        "edgewise.make_parser([Command(('a',), 's', lambda p: None, print)]).format_help()\n"
        "heavy = {'torch', 'lightning', 'numpy', 'scipy', 'matplotlib', 'jsonargparse'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
