"""The repository and its virtual environment: what is in it, and whether that is still right."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.bootstrap.steps import Step, run_steps, say

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ("c++", "g++", "clang++")


def our_packages(root: Path = ROOT) -> tuple[str, ...]:
    """Top-level packages of the repository, from the one list in ``pyproject.toml``."""
    import tomllib  # here, so that an older Python gets as far as the message that refuses it

    content = tomllib.loads((root / "pyproject.toml").read_text())
    found: list[str] = content["tool"]["importlinter"]["root_packages"]
    return tuple(found)


def requirements(root: Path, extras: Iterable[str] = ()) -> list[str]:
    """Dependencies of the package and of some extras, from ``pyproject.toml``."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    optional = project.get("optional-dependencies", {})
    return [
        *project["dependencies"],
        *(line for extra in sorted(extras) for line in optional[extra]),
    ]


def find_compiler() -> str | None:
    """The C++ compiler that builds would use; None if there is none."""
    chosen = os.environ.get("CXX")
    candidates = [shlex.split(chosen)[0]] if chosen else list(COMPILERS)
    return next(filter(None, map(shutil.which, candidates)), None)


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
        """Whether it was made to its end: one that was stopped in the middle has no pip yet."""
        if not Path(self.python).exists():
            return False
        return subprocess.run(self.pip("--version"), capture_output=True).returncode == 0

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


def make_venv(venv: Venv, root: Path) -> None:
    advice = (
        "install the venv module of this Python (Debian and Ubuntu: apt-get install python3-venv)"
    )
    command = (sys.executable, "-m", "venv", "--clear", str(venv.folder))
    logs = Path(tempfile.mkdtemp(prefix="edgewise-"))  # --clear would delete a log inside
    run_steps([Step("make the virtual environment", command, advice)], logs, root)
    shutil.rmtree(logs)  # after a failure its log is kept: the message names it


def fingerprint(venv: Venv, root: Path, torch_spec: str) -> str:
    """Hash of everything that the contents of .venv depend on."""
    files = [root / "pyproject.toml", root / "setup.py"]
    files += sorted(file for file in root.glob("common/**/csrc/**/*") if file.is_file())
    digest = hashlib.sha256()
    for text in (str(root), torch_spec, str(venv.torch_version())):
        digest.update(text.encode() + b"\0")
    for file in files:
        content = file.read_bytes() if file.exists() else b"absent"
        digest.update(f"{file.relative_to(root)} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def is_current(venv: Venv, root: Path, torch_spec: str, extras: Collection[str]) -> bool:
    """Whether all that is wanted was installed, from what is there now."""
    if not venv.stamp.exists() or not venv.works():
        return False
    stamp = json.loads(venv.stamp.read_text())
    if not set(extras) <= set(stamp.get("extras", ())):
        return False
    extensions = stamp["extensions"]
    if not extensions and not stamp["compiler"] and find_compiler() is not None:
        return False  # now the kernels can be compiled
    return all((root / name).exists() for name in extensions) and stamp[
        "fingerprint"
    ] == fingerprint(venv, root, torch_spec)


def write_stamp(venv: Venv, root: Path, torch_spec: str, extras: Collection[str]) -> None:
    """Record what was installed, and from what."""
    extensions = [str(file.relative_to(root)) for file in root.glob("common/**/*.so")]
    compiler = find_compiler() is not None
    if compiler and not extensions:
        say("the C++ kernels were not built (see the logs); the PyTorch forms are used instead")
    content = {
        "fingerprint": fingerprint(venv, root, torch_spec),
        "extras": sorted(extras),
        "extensions": extensions,
        "compiler": compiler,
    }
    venv.stamp.write_text(json.dumps(content, indent=1) + "\n")
