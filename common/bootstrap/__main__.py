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
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.bootstrap.steps import Step, StepFailed, run_steps, say

MAIN_JOB = ("-m", "spatial_ipa.pipeline")
TORCH = "torch==2.13.0"
TORCH_VARIABLE = "EDGEWISE_TORCH"
COMPILED = ("torch-scatter==2.1.2", "torch-cluster==1.6.3")
BUILD_TOOLS = ("setuptools>=77", "wheel", "ninja")
PACKAGES = ("common", "spatial_ipa", "protein_cvae")
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", *PACKAGES),
    ("lint-imports",),
    ("pytest",),
)
MINIMUM_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parents[2]
NETWORK_ADVICE = "check that pip reaches its package index (`pip config list`) and the disk space"


@dataclass(frozen=True)
class Venv:
    """The repository's virtual environment."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def path(self) -> str:
        """PATH with the tools of the environment first: compiling uses its ninja."""
        return os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])

    @property
    def stamp(self) -> Path:
        return self.folder / "edgewise-stamp.json"

    def works(self) -> bool:
        if not Path(self.python).exists():
            return False
        return subprocess.run([self.python, "-c", ""], capture_output=True).returncode == 0

    def torch_version(self) -> str | None:
        """Read from the file, local tag included (``2.13.0+cpu``): importing takes seconds."""
        for file in self.folder.glob("lib/python*/site-packages/torch/version.py"):
            found = re.search(r"__version__ = '([^']+)'", file.read_text())
            if found:
                return found.group(1)
        return None

    def tool(self, name: str) -> tuple[str, ...]:
        """The start of a command line: a module of that name, or a script where it has a dash."""
        script = str(self.folder / "bin" / name)
        return (script,) if "-" in name else (self.python, "-m", name)

    def pip(self, *arguments: str) -> tuple[str, ...]:
        return (self.python, "-m", "pip", "--disable-pip-version-check", *arguments)


def setup(torch_spec: str, root: Path = ROOT) -> Venv:
    """Make ``root/.venv`` complete; returns at once if it already is.

    Raises:
        StepFailed: if something is missing or a step fails.
    """
    venv = Venv(root / ".venv")
    if is_current(venv, root, torch_spec):
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
    editable = ("--no-build-isolation", "-e", ".[rivals,test,lint]")
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
    write_stamp(venv, root, torch_spec)
    say("ready")
    return venv


def make_venv(venv: Venv, root: Path) -> None:
    advice = (
        "install the venv module of this Python (Debian and Ubuntu: apt-get install python3-venv)"
    )
    command = (sys.executable, "-m", "venv", "--clear", str(venv.folder))
    logs = Path(tempfile.mkdtemp(prefix="edgewise-"))  # --clear would delete a log inside
    run_steps([Step("make the virtual environment", command, advice)], logs, root)
    shutil.rmtree(logs)  # after a failure its log is kept: the message names it


def compiled_wheels(venv: Venv, torch_version: str, root: Path) -> list[Path]:
    """Wheels of ``COMPILED`` for this torch, Python and platform, compiled where not cached."""
    tag = "import sys, sysconfig as s; print(sys.implementation.cache_tag + '-' + s.get_platform())"
    platform = subprocess.check_output([venv.python, "-c", tag], text=True).strip()
    folder = cache_root() / f"{torch_version}-{platform}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if missing := [spec for spec in COMPILED if find_wheel(folder, spec) is None]:
            say("waiting for the wheel cache (another set-up may be compiling)")
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [spec for spec in missing if find_wheel(folder, spec) is None]
        if missing:
            require_compiler()
            compile_wheels(missing, folder, venv, root)
        else:
            say(f"torch-scatter and torch-cluster: wheels from {folder}")
    found = [find_wheel(folder, spec) for spec in COMPILED]
    return [wheel for wheel in found if wheel is not None]


def compile_wheels(specs: Sequence[str], folder: Path, venv: Venv, root: Path) -> None:
    jobs = max(1, (os.cpu_count() or 1) // len(specs))
    advice = (
        "look for the first `error:` in the log; a compiler that is killed needs more memory "
        "(MAX_JOBS=1 uses least), a missing Python.h needs python3-dev"
    )
    say(f"compiling {' and '.join(specs)} against torch: 5 to 20 minutes, once")
    # Complete wheels are moved in, so that an interrupted build leaves nothing half-written.
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        options = ("--no-build-isolation", "--no-deps", "--no-cache-dir", "--wheel-dir", fresh)
        steps = [
            Step(f"compile {spec}", venv.pip("wheel", *options, spec), advice) for spec in specs
        ]
        variables = {"MAX_JOBS": os.environ.get("MAX_JOBS", str(jobs)), "PATH": venv.path}
        run_steps(steps, folder / "logs", root, variables)
        for wheel in Path(fresh).glob("*.whl"):
            os.replace(wheel, folder / wheel.name)


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgewise" / "wheels"


def find_wheel(folder: Path, spec: str) -> Path | None:
    stem = spec.replace("-", "_").replace("==", "-")
    return next(iter(sorted(folder.glob(f"{stem}-*.whl"))), None)


def cached_anywhere() -> bool:
    """True if wheels exist for some torch: then a compiler may not be needed."""
    return any(
        all(find_wheel(folder, spec) for spec in COMPILED) for folder in cache_root().glob("*/")
    )


def require_compiler() -> None:
    """Fail before the long work, not after it."""
    chosen = os.environ.get("CXX")
    candidates = [shlex.split(chosen)[0]] if chosen else ["c++", "g++", "clang++"]
    if not any(shutil.which(candidate) for candidate in candidates):
        raise StepFailed(
            f"no C++ compiler found (looked for {', '.join(candidates)}). Install one "
            "(Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++) or name one "
            "in CXX, then run again"
        )


def fingerprint(venv: Venv, root: Path, torch_spec: str) -> str:
    """Hash of everything that the contents of .venv depend on."""
    files = [root / "pyproject.toml", root / "setup.py"]
    files += sorted(file for file in root.glob("common/**/csrc/**/*") if file.is_file())
    digest = hashlib.sha256()
    for text in (str(root), torch_spec, str(venv.torch_version()), *COMPILED):
        digest.update(text.encode() + b"\0")
    for file in files:
        content = file.read_bytes() if file.exists() else b"absent"
        digest.update(f"{file.relative_to(root)} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def is_current(venv: Venv, root: Path, torch_spec: str) -> bool:
    if not venv.stamp.exists() or not venv.works():
        return False
    stamp = json.loads(venv.stamp.read_text())
    extensions_there = all((root / name).exists() for name in stamp["extensions"])
    return extensions_there and stamp["fingerprint"] == fingerprint(venv, root, torch_spec)


def write_stamp(venv: Venv, root: Path, torch_spec: str) -> None:
    extensions = [str(file.relative_to(root)) for file in root.glob("common/**/*.so")]
    if not extensions:
        say("the optional C++ kernels were not built; the PyTorch forms are used instead")
    content = {"fingerprint": fingerprint(venv, root, torch_spec), "extensions": extensions}
    venv.stamp.write_text(json.dumps(content, indent=1) + "\n")


def run_checks(venv: Venv, pytest_arguments: Sequence[str]) -> int:
    """All checks in order, the later ones also after a failure; 0 if all passed."""
    failed = []
    for check in CHECKS:
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
