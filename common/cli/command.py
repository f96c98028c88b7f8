"""A short command of ``edgewise``, as a model declares it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One verb, or one verb of a model where several models have it.

    A package lists its commands, one or a sequence, under the entry-point group
    ``edgewise.commands``; :mod:`common.cli.edgewise` collects them.

    Attributes:
        path: the words after ``edgewise``, such as ``("generate",)`` or ``("fit", "spatial")``.
        summary: one line for ``--help``.
        add_arguments: declares the arguments; imports nothing heavy, since ``--help`` calls it.
        run: does the work on the parsed arguments.  A ``lightning`` command that is part of it runs
            in a process of its own (:func:`common.training.stage.run_stage`).
    """

    path: tuple[str, ...]
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
