"""From a bare clone to a running job: needs Python 3.11 or newer and a C++ compiler.

    python3 -m common.bootstrap setup            make .venv and install everything
    python3 -m common.bootstrap run [ARGS]       set up, then run the main job with ARGS
    python3 -m common.bootstrap test [-- ARGS]   set up, then ruff, mypy, lint-imports, pytest ARGS

Standard library only.  torch comes first, because torch-scatter and torch-cluster import it while
they compile (5 to 20 minutes, side by side, once per torch and Python version: the wheels are kept
under ``$XDG_CACHE_HOME/edgewise/wheels``).  A stamp in .venv makes later calls start at once; it
is the hash of everything the installation depends on.

Another torch: ``--torch "torch==2.12.1"``, or the variable EDGEWISE_TORCH; pip's options may
follow in the same text, such as ``--index-url``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.bootstrap.environment import (
    ROOT,
    Venv,
    is_current,
    make_venv,
    our_packages,
    write_stamp,
)
from common.bootstrap.steps import Step, StepFailed, run_steps, say
from common.bootstrap.wheels import COMPILED, cached_anywhere, compiled_wheels, require_compiler

MAIN_JOB = ("-m", "spatial_ipa.pipeline")
TORCH = "torch==2.13.0"
TORCH_VARIABLE = "EDGEWISE_TORCH"
BUILD_TOOLS = ("setuptools>=77", "wheel", "ninja")
MINIMUM_PYTHON = (3, 11)
NETWORK_ADVICE = "check that pip reaches its package index (`pip config list`) and the disk space"


def setup(torch_spec: str, root: Path = ROOT) -> Venv:
    """Make ``root/.venv`` complete; returns at once if it already is.

    Raises:
        StepFailed: if something is missing or a step fails.
    """
    venv = Venv(root / ".venv")
    if is_current(venv, root, torch_spec, COMPILED):
        return venv
    say(f"setting up {venv.folder}")
    if not cached_anywhere():
        require_compiler()
    if not venv.works():
        make_venv(venv, root)
    packages = (*BUILD_TOOLS, *shlex.split(torch_spec))
    run_steps(
        [Step(f"install {torch_spec.split()[0]}", venv.pip("install", *packages), NETWORK_ADVICE)],
        venv.logs,
        root,
    )
    torch_version = venv.torch_version()
    if torch_version is None:
        raise StepFailed(f"{torch_spec!r} did not install torch; the text must name it first")
    wheels = compiled_wheels(venv, torch_version, root)
    # Forced, because a wheel of the same version may be there that fits another torch.
    forced = venv.pip("install", "--no-deps", "--force-reinstall", *map(str, wheels))
    run_steps(
        [Step("install torch-scatter and torch-cluster", forced, "delete the wheel cache")],
        venv.logs,
        root,
    )
    constraints = venv.folder / "edgewise-constraints.txt"
    constraints.write_text(f"torch=={torch_version}\n")  # nothing below may replace torch
    editable = ("--no-build-isolation", "-e", ".[baselines,test,lint]")
    rest = venv.pip("install", "--constraint", str(constraints), *editable)
    run_steps(
        [Step("install the package and its dependencies", rest, NETWORK_ADVICE)],
        venv.logs,
        root,
        {"PATH": venv.path},
    )
    imports = "import torch_scatter, torch_cluster, lightning.pytorch, common.cli.main"
    advice = f"delete {wheels[0].parent} and {venv.folder}, then run again"
    run_steps([Step("import check", (venv.python, "-c", imports), advice)], venv.logs, root)
    write_stamp(venv, root, torch_spec, COMPILED)
    say("ready")
    return venv


def checks(root: Path = ROOT) -> tuple[tuple[str, ...], ...]:
    """What CI runs, in order."""
    return (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", *our_packages(root)),
        ("lint-imports",),
        ("pytest",),
    )


def run_checks(venv: Venv, pytest_arguments: Sequence[str]) -> int:
    """All checks in order, the later ones also after a failure; 0 if all passed."""
    failed = []
    for check in checks():
        extra = pytest_arguments if check[0] == "pytest" else ()
        title = " ".join((*check, *extra))
        say(title)
        if subprocess.run([*venv.tool(check[0]), *check[1:], *extra], cwd=ROOT).returncode:
            failed.append(title)
    say(f"failed: {'; '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this module, and the arguments to pass on."""
    parser = argparse.ArgumentParser(
        prog="python3 -m common.bootstrap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=list(argv[:1]) != ["run"],  # `run --help` asks the main job
    )
    parser.add_argument("command", choices=("setup", "run", "test"))
    default = os.environ.get(TORCH_VARIABLE) or TORCH
    parser.add_argument("--torch", default=default, metavar="SPEC", help=f"default: {default}")
    own, separator, after = list(argv), "--" in argv, []
    if separator:
        own, after = own[: own.index("--")], own[own.index("--") + 1 :]
    options, unknown = parser.parse_known_args(own)
    if options.command == "setup" and (unknown or after):
        parser.error(f"setup takes no further arguments, got {' '.join((*unknown, *after))}")
    if options.command == "test" and unknown:
        parser.error(f"arguments of pytest go after --, got {' '.join(unknown)}")
    return options, [*unknown, *after]


def main(argv: Sequence[str]) -> int:
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        say(f"Python {wanted} or newer is needed; {sys.executable} is {sys.version.split()[0]}")
        return 1
    options, forwarded = parse(argv)
    try:
        venv = setup(options.torch)
    except StepFailed as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; finished steps are kept")
        return 130
    if options.command == "run":
        sys.stdout.flush()
        os.execv(venv.python, [venv.python, *MAIN_JOB, *forwarded])
    return run_checks(venv, forwarded) if options.command == "test" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
