"""Errors on the command line: what is meant for the user is one line, and status 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import told_to_user
from common.processes import Stopped

TRACEBACK_VARIABLE = "EDGEWISE_TRACEBACK"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process on an error meant for the user: one line on standard error, status 2.

    Any other error passes, and with ``EDGEWISE_TRACEBACK=1`` every error does.  Ctrl-C and signals
    that end the process are one line, too, with the status that a shell gives them.
    """
    try:
        yield
    except KeyboardInterrupt as reason:
        print("stopped; give the same command again to go on", file=sys.stderr)
        sys.exit(reason.status if isinstance(reason, Stopped) else 128 + signal.SIGINT)
    except Exception as error:
        told = _misfit(error) or _misconfigured(error) or told_to_user(error)
        if os.environ.get(TRACEBACK_VARIABLE) == "1" or told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        print(f"({TRACEBACK_VARIABLE}=1 shows where)", file=sys.stderr)
        sys.exit(2)


def _misfit(error: Exception) -> str | None:
    """What to say of a checkpoint whose tensors are not the model's; None of any other error."""
    report = str(error)
    if not report.startswith("Error(s) in loading state_dict"):
        return None
    first = "; ".join(line.strip() for line in report.splitlines()[1:4])
    return f"--ckpt_path does not fit the model of the configuration: {first[:400]}"


def _misconfigured(error: Exception) -> str | None:
    """What Lightning says of options that it cannot use; None of any other error."""
    missing = isinstance(error, ModuleNotFoundError) and str(error).startswith("Requirement ")
    if not missing and type(error).__name__ != "MisconfigurationException":
        return None
    return " ".join(str(error).split())


def say(line: str) -> None:
    """Print one line for the user to standard error, on the process of rank zero."""
    if rank_of_process() == 0:
        print(line, file=sys.stderr, flush=True)


def rank_of_process() -> int:
    """Rank that a launcher has given this process; 0 without one."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
