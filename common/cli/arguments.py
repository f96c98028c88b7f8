"""What the ``lightning`` command takes beyond Lightning's own options."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ActionYesNo
from lightning.pytorch.cli import LightningArgumentParser

from common.files.configs import find_config
from common.sparse.backends import BACKEND_CHOICES, BACKEND_VARIABLE


def add_own_arguments(parser: LightningArgumentParser, subcommand: str) -> None:
    """Declare ``--backend``, and ``--resume`` of a fit."""
    parser.add_argument(
        "--backend",
        type=str,
        default=None,
        help=f"sparse operations: {', '.join(BACKEND_CHOICES)}; also {BACKEND_VARIABLE}",
    )
    if subcommand == "fit":
        parser.add_argument(
            "--resume",
            action=ActionYesNo(no_prefix="no_"),
            default=False,
            help="go on with the run of this configuration if there is one, else start it",
        )


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
