"""The Trainer of the command line.

A new subcommand of ``lightning`` is a typed, documented public method of this class plus its name
in ``SUBCOMMANDS``: its parameters become options, except those listed to be skipped, and its
first docstring line becomes the help text.  ``model`` and ``datamodule`` are always passed.  A
method that needs a checkpoint receives ``ckpt_path`` as text and has to load it itself.
"""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch import Trainer as LightningTrainer


class Trainer(LightningTrainer):
    """``lightning.pytorch.Trainer`` with room for further subcommands."""

    # Method name -> parameters that are not options.  `model` and `datamodule` belong in each set.
    SUBCOMMANDS: ClassVar[dict[str, set[str]]] = {}
