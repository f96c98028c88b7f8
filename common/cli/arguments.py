"""What the ``lightning`` command takes beyond Lightning's own options."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from jsonargparse import ActionYesNo
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from common.cli.edgewise import GROUP
from common.files.configs import find_config
from common.sparse.backends import BACKEND_CHOICES, BACKEND_VARIABLE


def add_own_arguments(parser: LightningArgumentParser, subcommand: str) -> None:
    """Declare ``--backend``, ``--threads``, and ``--resume`` of a fit."""
    parser.add_argument(
        "--backend",
        type=str,
        default=None,
        help=f"sparse operations: {', '.join(BACKEND_CHOICES)}; also {BACKEND_VARIABLE}",
    )
    parser.add_argument(
        "--threads",
        type=PositiveInt | None,
        default=None,
        help="compute threads of a process; null: OMP_NUM_THREADS, else all cores",
    )
    if subcommand == "fit":
        parser.add_argument(
            "--resume",
            action=ActionYesNo(no_prefix="no_"),
            default=False,
            help="go on with the run of this configuration if there is one, else start it",
        )
    name_groups(parser)


_TITLES = {"LightningModule": "The model, by class path", "A DataModule": "The data, by class path"}


def name_groups(parser: LightningArgumentParser) -> None:
    """Give the groups of ``--help`` titles that say what they are."""
    for group in parser._action_groups:
        for part, title in _TITLES.items():
            if group.title is not None and part in group.title:
                group.title = title


def import_models() -> None:
    """Import the public classes of all packages with commands: ``--help`` lists what is known."""
    for point in entry_points(group=GROUP):
        package = import_module(point.value.partition(".")[0])
        for name in getattr(package, "__all__", ()):
            if name.endswith("Module"):
                getattr(package, name)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a subcommand is asked for its options."""
    return len(arguments) > 1 and any(word in ("-h", "--help") for word in arguments[1:])


def shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``--config configs/...`` leading to the shipped file where there is no such
    file in the working directory."""
    found: list[str] = []
    for position, argument in enumerate(arguments):
        key, separator, value = argument.partition("=")
        if separator and key in ("--config", "-c"):
            found.append(f"{key}={find_config(value)}")
        elif position and arguments[position - 1] in ("--config", "-c"):
            found.append(str(find_config(argument)))
        else:
            found.append(argument)
    return found
