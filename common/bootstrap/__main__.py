"""From a bare clone to a running job: needs Python 3.11 or newer.

    python3 -m common.bootstrap setup [--peers]  make .venv and install everything
    python3 -m common.bootstrap run [ARGS]       set up, then run the main job with ARGS
    python3 -m common.bootstrap test [-- ARGS]   set up, then every check, pytest with ARGS

Standard library only.  torch comes first, because our own kernels are compiled against it, beside
the installation of everything else.  Without a C++ compiler the same numbers come from PyTorch.
``--peers`` and ``test`` also compile torch-scatter and torch-cluster, which benchmarks and tests
compare with (5 to 20 minutes, side by side, once per torch and Python version: the wheels are kept
under ``$XDG_CACHE_HOME/edgewise/wheels``).  A stamp in .venv makes later calls start at once; it
is the hash of everything the installation depends on.  Ctrl-C and SIGTERM end all that was started.

Another torch: ``--torch "torch==2.12.1"``, or the variable EDGEWISE_TORCH; pip's options may
follow in the same text, such as ``--index-url``.  Packages are installed by uv, or by pip alone
with ``--installer pip`` or EDGEWISE_INSTALLER=pip.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from common import processes
from common.bootstrap.environment import (
    ROOT,
    Venv,
    find_compiler,
    is_current,
    make_venv,
    our_packages,
    requirements,
    write_stamp,
)
from common.bootstrap.installer import INSTALLER_VARIABLE, INSTALLERS, choose, run_install
from common.bootstrap.steps import Step, StepFailed, clock, run_steps, say
from common.bootstrap.wheels import PEERS, cached_anywhere, peer_wheels, require_compiler

MAIN_JOB = ("-m", "spatial_ipa.pipeline")
TORCH = "torch==2.13.0"
TORCH_VARIABLE = "EDGEWISE_TORCH"
BUILD_TOOLS = ("setuptools>=77", "wheel", "ninja")
EXTRAS_OF_TEST = ("baselines", "docs", "lint", PEERS, "test")
MODULES = ("lightning.pytorch.cli", "spatial_ipa.pipeline.__main__", "protein_cvae.commands")
PEER_MODULES = ("torch_scatter", "torch_cluster")
MINIMUM_PYTHON = (3, 11)


def setup(
    torch_spec: str, extras: Collection[str] = (), installer: str = "auto", root: Path = ROOT
) -> dict[str, float]:
    """Make ``root/.venv`` complete; returns at once if it already is.

    Args:
        torch_spec: requirement of torch, options of pip may follow.
        extras: optional dependencies of ``pyproject.toml`` to install, too.
        installer: of :data:`~common.bootstrap.installer.INSTALLERS`.
        root: the repository.

    Returns:
        Seconds of each step.

    Raises:
        StepFailed: if something is missing or a step fails.
    """
    venv = Venv(root / ".venv")
    if is_current(venv, root, torch_spec, extras):
        return {}
    say(f"setting up {venv.folder}")
    if PEERS in extras and not cached_anywhere():
        require_compiler()
    if find_compiler() is None:
        say(
            "no C++ compiler: the kernels run as plain PyTorch, with the same numbers but slower; "
            "install one (Debian and Ubuntu: apt-get install g++) and call this again"
        )
    started = time.monotonic()
    if not venv.works():
        make_venv(venv, root)
    program = choose(installer, venv, root)
    seconds = {"make the virtual environment": time.monotonic() - started}
    title, packages = torch_spec.split()[0], [*BUILD_TOOLS, *shlex.split(torch_spec)]
    seconds |= run_install({f"install {title}": packages}, venv, program, root)
    torch_version = venv.torch_version()
    if torch_version is None:
        raise StepFailed(f"{torch_spec!r} did not install torch; the text must name it first")
    constraints = venv.folder / "edgewise-constraints.txt"
    constraints.write_text(f"torch=={torch_version}\n")  # nothing below may replace torch
    wanted = ["--constraint", str(constraints), *requirements(root, set(extras) - {PEERS})]
    seconds |= run_install({"install the dependencies": wanted}, venv, program, root)
    # The first import takes long, as it compiles to bytecode.
    beside = [_own_package(venv), _import_check("import check", MODULES, venv)]
    seconds |= run_steps(beside, venv.logs, root, {"PATH": venv.path})
    if PEERS in extras:
        seconds |= _install_peers(venv, torch_version, root)
    write_stamp(venv, root, torch_spec, extras)
    say("ready")
    return seconds


def _own_package(venv: Venv) -> Step:
    """Installs this repository; its kernels are compiled here."""
    options = ("--no-deps", "--no-compile", "--no-build-isolation", "-e", ".")
    advice = "look for the first `error:` in the log"
    return Step("compile and install the package", venv.pip("install", *options), advice)


def _import_check(name: str, modules: Sequence[str], venv: Venv) -> Step:
    advice = f"delete {venv.folder} and the cached wheels, then run again"
    # Bytecode is kept, whatever PYTHONDONTWRITEBYTECODE says: without, every process compiles anew.
    code = f"import sys; sys.dont_write_bytecode = False; import {', '.join(modules)}"
    return Step(name, (venv.python, "-c", code), advice)


def _install_peers(venv: Venv, torch_version: str, root: Path) -> dict[str, float]:
    started = time.monotonic()
    wheels = peer_wheels(venv, torch_version, root)
    compiling = time.monotonic() - started
    # Forced, because a wheel of the same version may be there that fits another torch.
    forced = venv.pip("install", "--no-deps", "--force-reinstall", *map(str, wheels))
    step = Step("install torch-scatter and torch-cluster", forced, "delete the wheel cache")
    run_steps([step], venv.logs, root)
    run_steps([_import_check("import check of both", PEER_MODULES, venv)], venv.logs, root)
    return {"compile torch-scatter and torch-cluster": compiling}


def checks(root: Path = ROOT) -> tuple[tuple[str, ...], ...]:
    """What CI runs, in order."""
    return (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", *our_packages(root)),
        ("lint-imports",),
        ("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build/html"),
        # A process for each core, but not as many as a large machine has.
        ("pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"),
    )


def run_checks(venv: Venv, pytest_arguments: Sequence[str]) -> int:
    """All checks in order, the later ones also after a failure; 0 if all passed."""
    failed = []
    for check in checks():
        extra = pytest_arguments if check[0] == "pytest" else ()
        title = " ".join((*check, *extra))
        say(title)
        if processes.run([*venv.tool(check[0]), *check[1:], *extra], ROOT):
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
    chosen = os.environ.get(INSTALLER_VARIABLE) or "auto"
    parser.add_argument("--installer", default=chosen, help=f"{', '.join(INSTALLERS)}")
    peers = "with setup: compile torch-scatter and torch-cluster, too, as test does"
    parser.add_argument("--peers", action="store_true", help=peers)
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
    extras = {"test": EXTRAS_OF_TEST, "setup": (PEERS,) if options.peers else ()}
    try:
        with processes.stop_on_signals():
            seconds = setup(options.torch, extras.get(options.command, ()), options.installer)
            return _work(options.command, forwarded, seconds)
    except StepFailed as error:
        say(str(error))
        return 1
    except KeyboardInterrupt as reason:
        say("stopped; finished steps are kept")
        return reason.status if isinstance(reason, processes.Stopped) else 130


def _work(command: str, forwarded: Sequence[str], seconds: dict[str, float]) -> int:
    """What comes after the set-up; says at the end where the time went."""
    venv, started, status = Venv(ROOT / ".venv"), time.monotonic(), 0
    if command == "run":
        # Waiting threads that spin take the core from the one they wait for.
        variables = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
        status = processes.run([venv.python, *MAIN_JOB, *forwarded], environment=variables)
        seconds = seconds | {"the job": time.monotonic() - started}
    elif command == "test":
        status = run_checks(venv, forwarded)
        seconds = seconds | {"the checks": time.monotonic() - started}
    if seconds:
        say("where the time went (steps may overlap):")
        for name, spent in seconds.items():
            say(f"  {clock(spent):>12}  {name}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
