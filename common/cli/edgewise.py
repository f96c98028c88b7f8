"""The ``edgewise`` command: short verbs, such as ``edgewise generate in.pdb -o out.pdb``.

A package lists its verbs, :class:`~common.cli.command.Command` or several of them, under the
entry-point group ``edgewise.commands``.  Nothing heavy is imported before a verb runs.  A package
whose verbs cannot be loaded is named, and the others go on working.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

from common.cli.command import Command
from common.cli.messages import one_line_errors

GROUP = "edgewise.commands"
_CHOSEN = "_command"


class _Parser(argparse.ArgumentParser):
    """Errors of usage are one line, too."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        self.exit(2)


def load_commands(points: Iterable[EntryPoint]) -> tuple[list[Command], list[str]]:
    """The commands of all packages in order of their paths, and a complaint for each broken one."""
    commands: dict[tuple[str, ...], Command] = {}
    complaints: list[str] = []
    for point in sorted(points, key=lambda point: point.name):
        try:
            loaded = point.load()
            found = [loaded] if isinstance(loaded, Command) else list(loaded)
            for command in found:
                _refuse(command, commands)
        except Exception as error:  # whatever is wrong with one package is not the others' fault
            reason = f"{type(error).__name__}: {error}"
            complaints.append(f"the commands of {point.name} ({point.value}) are broken: {reason}")
            continue
        commands |= {command.path: command for command in found}
    return [commands[path] for path in sorted(commands)], complaints


def _refuse(command: object, known: dict[tuple[str, ...], Command]) -> None:
    """Raise unless the command can stand beside the known ones."""
    if not isinstance(command, Command):
        raise TypeError(f"expected a Command, got {type(command).__name__}")
    if not command.path:
        raise ValueError("a command without a path")
    for path in known:
        shorter = min(len(path), len(command.path))
        if path[:shorter] == command.path[:shorter]:
            raise ValueError(f"`{' '.join(command.path)}` meets `{' '.join(path)}`")


def make_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """Nested subparsers, one level for every word of the paths."""
    parser = _Parser(
        prog="edgewise", description="Short commands of the models.", allow_abbrev=False
    )
    _add_level(parser, commands, 0)
    return parser


def _add_level(parser: argparse.ArgumentParser, commands: Sequence[Command], depth: int) -> None:
    what = "command" if depth == 0 else f"kind of {commands[0].path[depth - 1]}"
    choices = parser.add_subparsers(
        metavar=what.upper().replace(" ", "_"), required=True, parser_class=_Parser, title=what
    )
    words = list(dict.fromkeys(command.path[depth] for command in commands))
    for word in words:
        below = [command for command in commands if command.path[depth] == word]
        first = below[0]
        if len(first.path) == depth + 1:
            leaf = choices.add_parser(
                word, help=first.summary, description=first.summary, allow_abbrev=False
            )
            first.add_arguments(leaf)
            leaf.add_argument(
                "--backend",
                help="of the sparse operations: auto, triton, cpp, torch or reference; also "
                "EDGEWISE_BACKEND",
            )
            leaf.set_defaults(**{_CHOSEN: first})
        else:
            kinds = ", ".join(dict.fromkeys(command.path[depth + 1] for command in below))
            group = choices.add_parser(word, help=f"one of: {kinds}", allow_abbrev=False)
            _add_level(group, below, depth + 1)


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb; ``args`` default to the process's own.

    Raises:
        SystemExit: with status 2 on a usage error or an error meant for the user.
    """
    commands, complaints = load_commands(entry_points(group=GROUP))
    for complaint in complaints:
        print(f"warning: {complaint}", file=sys.stderr)
    if not commands:
        print(f"error: no installed package has commands (entry points {GROUP})", file=sys.stderr)
        sys.exit(2)
    options = make_parser(commands).parse_args(args)
    command: Command = vars(options).pop(_CHOSEN)
    with one_line_errors():
        # Not at the top: it imports torch, which `--help` does not need.
        prepare: Callable[[str | None], None] = import_module("common.cli.process").prepare_process
        prepare(vars(options).pop("backend"))
        command.run(options)


if __name__ == "__main__":
    main()
