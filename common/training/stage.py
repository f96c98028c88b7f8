"""Run an earlier stage of a training as its own process.

A stage is one ``lightning`` command.  It runs in a process of its own, on one device, because the
caller may already be one rank of a distributed job, whose environment must not leak into it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from common import processes
from common.errors import UserError

# Prefixes of variables by which launchers tell a process its rank.
_LAUNCHER_PREFIXES = ("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "PL_")
_LAUNCHER_NAMES = (
    "LOCAL_RANK",
    "RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def run_stage(arguments: Sequence[str]) -> None:
    """Run ``lightning <arguments>`` to its end, its output shown as it comes.

    A signal that ends this process ends the stage first.

    Raises:
        ValueError: if it fails; the message repeats the command.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    if not os.isatty(1):
        # Jupyter sets it for its cells; progress bars then take them for terminals, and every state
        # of a bar stays.
        environment.pop("FORCE_COLOR", None)
    command = [sys.executable, "-m", "common.cli", *arguments]
    status = processes.run(command, environment=environment)
    if status != 0:
        raise UserError(
            f"the stage `lightning {' '.join(arguments)}` failed with status {status}; "
            "its own message stands above"
        )
