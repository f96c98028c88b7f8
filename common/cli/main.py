"""The ``lightning`` command: ``lightning {fit,validate,test,predict} --config FILE ...``.

Model, data and trainer come from YAML files and flags, by class path.  Also
``python -m common.cli``.  What differs from Lightning's own command line:

* indices come from our samplers, so ``use_distributed_sampler`` is off; runs go to ``runs/``;
* ``--ckpt_path`` must be a checkpoint of the configuration's model class, is loaded with
  ``weights_only=True``, and a warning lists each model setting that the checkpoint's
  hyperparameters replace;
* ``fit --resume`` goes on with the run of this configuration if there is one, else starts it
  (:mod:`common.cli.resume`); a checkpoint of another run is never loaded unasked;
* ``--backend`` chooses the implementation of the sparse operations, ``--threads`` the number of
  compute threads;
* ``--config configs/...`` names a shipped configuration from any folder, and modules in the working
  directory are found;
* the resolved configuration is kept as one file per subcommand and run, never in the way;
* a :class:`~common.errors.UserError` ends as one line on standard error and status 2, SIGTERM with
  status 143; ``EDGEWISE_TRACEBACK=1`` shows the traceback.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from common.cli.arguments import (
    add_own_arguments,
    asks_for_help,
    import_models,
    shipped_configs,
)
from common.cli.before_run import BeforeRun, refuse_strategy
from common.cli.checkpoints import complaint_about, is_file_path, settings_of
from common.cli.messages import one_line_errors, say
from common.cli.process import prepare_process
from common.cli.quiet import leave_out_noise
from common.cli.resume import is_requeued, prepare_resume
from common.cli.runs import Found, RunRecord
from common.cli.saved_config import SaveRunConfig
from common.errors import UserError
from common.files.identity import resolve_class
from common.training.interruption import SaveOnSignal
from common.training.resuming import ExactResume


class EdgewiseCLI(LightningCLI):
    """LightningCLI with the rules of this project; see the module docstring."""

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """As Lightning's, but a misspelt option is never taken for an abbreviation."""
        return super().init_parser(**{"allow_abbrev": False, **options})

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **options: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        add_own_arguments(parser, subcommand)
        return parser

    def parse_arguments(
        self,
        parser: LightningArgumentParser,
        args: list[str] | dict[str, Any] | Namespace | None,
    ) -> None:
        if args is None or isinstance(args, list):
            given = sys.argv[1:] if args is None else args
            if asks_for_help(given):
                import_models()
            self.config = parser.parse_args(shipped_configs(given))
        else:
            super().parse_arguments(parser, args)
        self.requested: dict[str, Any] = {}
        self.resumed: Found | None = None
        subcommand = self.config.get("subcommand")
        if subcommand is None:
            return
        options = self.config[subcommand]
        prepare_process(options.pop("backend"), options["threads"])
        refuse_strategy(options["trainer"].get("strategy"))
        self.requested = _flatten(options.get("model"))
        record = RunRecord.of(vars(options.as_flat()))
        self.save_config_kwargs = {"record": record}
        if subcommand == "fit":
            self._resume(options, record)
        ckpt_path = options.get("ckpt_path")
        if ckpt_path is None:
            return
        if is_file_path(ckpt_path):
            complaint = complaint_about(Path(ckpt_path), self.requested.get("class_path"))
            if complaint is not None:
                parser.error(f"--ckpt_path: {complaint}")
        if options.get("weights_only") is None:
            options["weights_only"] = True  # never unpickle code from a checkpoint

    def _resume(self, options: Namespace, record: RunRecord) -> None:
        """``--resume``, which a job that SLURM has requeued implies for its own run."""
        asked = options.pop("resume")
        if options.get("ckpt_path") is not None:
            if asked:
                raise UserError("give --resume or --ckpt_path, not both")
            return
        if not asked and not is_requeued():
            return
        class_path = self.requested.get("class_path")
        found, lines = prepare_resume(options, record, class_path, same_job=not asked)
        self.resumed = found
        for line in lines if asked or found is not None else []:
            say(line)
        if found is not None:
            say(f"resuming {found.path} (epoch {found.epoch}, step {found.step})")
        elif asked:
            say("--resume: no checkpoint of this run; it starts from the beginning")

    def _parse_ckpt_path(self) -> None:
        """Put the settings of ``--ckpt_path`` over the configuration.

        Lightning's own takes the class's path as the checkpoint has it, which may be that of an
        earlier layout.
        """
        subcommand = self.config.get("subcommand")
        ckpt_path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if ckpt_path is None or not is_file_path(ckpt_path):
            return
        settings = settings_of(Path(ckpt_path), self.requested.get("class_path"))
        if not settings:
            return
        try:
            self.config = self.parser.parse_object({subcommand: {"model": settings}}, self.config)
        except SystemExit:
            print(f"these are the hyperparameters of --ckpt_path {ckpt_path}", file=sys.stderr)
            raise

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

    def _run_subcommand(self, subcommand: str) -> None:
        BeforeRun(self.trainer, subcommand, self.config_init[subcommand]).prepare(
            self.requested, self.resumed
        )
        super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Let the model refuse settings that a fit cannot end with, before anything is read."""
        check = getattr(self.model, "check_settings", None)
        if check is not None:
            check(self.trainer)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; ``args`` default to the process's own.

    Raises:
        SystemExit: with status 2 on a usage error or an error our packages raise on purpose.
    """
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)  # a callback of the user's; behind all packages
    leave_out_noise()
    with one_line_errors():
        try:
            _run(args)
        except SIGTERMException:
            sys.exit(128 + signal.SIGTERM)


def _run(args: Sequence[str] | None) -> None:
    advice = "; the same command with --resume goes on from it"
    EdgewiseCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs=_short_usage(),
        trainer_defaults={
            "use_distributed_sampler": False,
            "default_root_dir": "runs",
            "callbacks": [ExactResume(), SaveOnSignal(advice)],
        },
        save_config_callback=SaveRunConfig,
        args=None if args is None else list(args),
    )


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
    model_class = resolve_class(class_path)
    if model_class is None:
        return {}
    defaults: dict[str, Any] = {}
    for parameter in inspect.signature(model_class).parameters.values():
        key, value = f"init_args.{parameter.name}", parameter.default
        if is_dataclass(value) and not isinstance(value, type):
            defaults |= {f"{key}.{name}": part for name, part in asdict(value).items()}
        else:
            defaults[key] = value
    return defaults


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
