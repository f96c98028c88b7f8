"""The ``lightning`` command: ``lightning {fit,validate,test,predict} --config FILE ...``.

Model, data and trainer come from YAML files and flags, by class path.  Also
``python -m common.cli``.  What differs from Lightning's own command line:

* indices come from our samplers, so ``use_distributed_sampler`` is off; runs go to ``runs/``;
* ``--ckpt_path`` must be a checkpoint of the configuration's model class, is loaded with
  ``weights_only=True``, and a warning lists each model setting that the checkpoint's
  hyperparameters replace;
* the resolved configuration is kept as one file per subcommand and run, never in the way;
* a :class:`~common.errors.UserError` ends as one line on standard error and status 2;
  ``EDGEWISE_TRACEBACK=1`` shows the traceback.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from common.errors import told_to_user
from common.training.trainer import Trainer

TRACEBACK_VARIABLE = "EDGEWISE_TRACEBACK"
# What Lightning accepts for --ckpt_path besides a file.
CKPT_KEYWORDS = ("best", "last", "hpc", "registry")


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config_<subcommand>.yaml`` in the log folder, numbered where one exists.

    Lightning's own callback raises there, also on resume and on ``predict`` in the same folder.
    """

    def setup(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        log_dir = trainer.log_dir  # a broadcast: every rank has to read it
        if self.already_saved or log_dir is None:
            return
        self.already_saved = True
        if not trainer.is_global_zero:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name, number = f"config_{TrainerFn(stage).value}", 1
        path = folder / f"{name}.yaml"
        while path.exists():
            number += 1
            path = folder / f"{name}_{number}.yaml"
        self.parser.save(self.config, str(path), multifile=False)


class EdgewiseCLI(LightningCLI):
    """LightningCLI with the rules of this project; see the module docstring."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), **Trainer.SUBCOMMANDS}

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """As Lightning's, but a misspelt option is never taken for an abbreviation."""
        return super().init_parser(**{"allow_abbrev": False, **options})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The place for links between model and data.

        A link such as ``parser.link_arguments("data.num_genes", "model.init_args.num_genes",
        apply_on="instantiate")`` needs the attribute after the data module's ``__init__``, and is
        ignored for models without that argument.  There is none today: each model reads the
        sizes it needs from the files it is given.
        """

    def parse_arguments(
        self,
        parser: LightningArgumentParser,
        args: list[str] | dict[str, Any] | Namespace | None,
    ) -> None:
        super().parse_arguments(parser, args)
        self.requested: dict[str, Any] = {}
        subcommand = self.config.get("subcommand")
        if subcommand is None:
            return
        options = self.config[subcommand]
        self.requested = _flatten(options.get("model"))
        ckpt_path = options.get("ckpt_path")
        if ckpt_path is None:
            return
        if ckpt_path not in CKPT_KEYWORDS and "://" not in ckpt_path:
            complaint = _complaint_about(Path(ckpt_path), self.requested.get("class_path"))
            if complaint is not None:
                parser.error(f"--ckpt_path: {complaint}")
        if options.get("weights_only") is None:
            options["weights_only"] = True  # never unpickle code from a checkpoint

    def before_fit(self) -> None:
        """Refuse settings that the fit could not end with, before any data is prepared."""
        check = getattr(self.model, "check_settings", None)
        if check is not None:
            check(self.trainer)

    def before_instantiate_classes(self) -> None:
        """Warn of settings that the hyperparameters of ``--ckpt_path`` have replaced."""
        if self.subcommand is None:
            return
        restored = _flatten(self.config[self.subcommand].get("model"))
        unset = _defaults(self.requested.get("class_path"))
        replaced = [
            f"{key}: {self.requested[key]!r} -> {value!r}"
            for key, value in restored.items()
            if key in self.requested and self.requested[key] not in (value, unset.get(key))
        ]
        if replaced:
            rank_zero_warn(
                "--ckpt_path restores the checkpoint's hyperparameters over the configuration; "
                f"replaced: {'; '.join(replaced)}. To change them, start a new run "
                "without --ckpt_path."
            )


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; ``args`` default to the process's own.

    Raises:
        SystemExit: with status 2 on a usage error or an error our packages raise on purpose.
    """
    with one_line_errors():
        EdgewiseCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_class=Trainer,
            parser_kwargs=_short_usage(),
            trainer_defaults={"use_distributed_sampler": False, "default_root_dir": "runs"},
            save_config_callback=SaveRunConfig,
            args=None if args is None else list(args),
        )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process on an error meant for the user: one line on standard error, status 2.

    Any other error passes, and with ``EDGEWISE_TRACEBACK=1`` every error does.
    """
    try:
        yield
    except Exception as error:
        told = _misfit(error) or told_to_user(error)
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


def _complaint_about(path: Path, class_path: object) -> str | None:
    """Why the file is not a checkpoint of the model class that was asked for; None if it may be.

    Lightning would fail on each of these with a traceback from inside.
    """
    if not path.is_file():
        return f"no such file: {path}"
    if not zipfile.is_zipfile(path):
        return f"{path} is damaged, or no checkpoint: it is not the archive that torch.save writes"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return (
            f"{path} holds objects other than tensors and plain types; they are not loaded, since "
            "unpickling runs code of whoever wrote the file"
        )
    except Exception as error:  # a damaged archive raises errors of all kinds
        return f"{path} is damaged, or no checkpoint ({type(error).__name__})"
    parts = ("pytorch-lightning_version", "state_dict")
    if not isinstance(content, dict) or any(part not in content for part in parts):
        held = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        return (
            f"{path} is not a checkpoint that `lightning fit` wrote, such as those in "
            f"checkpoints/; it holds {held}"
        )
    settings = content.get("hyper_parameters", {})
    if settings and "_class_path" not in settings:
        return (
            f"{path} does not name its model class: it was written by a Trainer in Python, not by "
            "`lightning fit`; load it with the class's load_from_checkpoint"
        )
    trained = settings.get("_class_path")
    if None not in (trained, class_path) and trained != class_path:
        return f"{path} is a checkpoint of {trained}, the configuration names {class_path}"
    return None


def _short_usage() -> dict[str, dict[str, Any]]:
    """One usage line per subcommand: an error message should not drown in 50 options."""
    usage = "%(prog)s --config FILE [--config FILE ...] [--KEY VALUE ...]"
    return {name: {"usage": usage} for name in EdgewiseCLI.subcommands()}


def _defaults(class_path: object) -> dict[str, Any]:
    """Default of each constructor argument as ``init_args.<name>``.

    What equals its default was most likely never asked for: no reason to warn.
    """
    if not isinstance(class_path, str):
        return {}
    module, _, name = class_path.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    return {f"init_args.{p.name}": p.default for p in parameters.values()}


def _flatten(options: Namespace | None) -> dict[str, Any]:
    """Leaf values by dotted key."""
    if options is None:
        return {}
    return {
        key.replace("dict_kwargs.", "init_args."): value
        for key, value in vars(options.as_flat() if isinstance(options, Namespace) else {}).items()
    }


if __name__ == "__main__":
    main()
