"""Wheels of torch-scatter and torch-cluster, compiled against torch and kept between set-ups.

The package itself needs neither: tests and benchmarks compare with them.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.bootstrap.environment import COMPILERS, Venv, find_compiler
from common.bootstrap.steps import Step, StepFailed, run_steps, say

PEERS = "pyg"
"""Extra of ``pyproject.toml`` that has them."""
COMPILED = ("torch-scatter==2.1.2", "torch-cluster==1.6.3")


def peer_wheels(venv: Venv, torch_version: str, root: Path) -> list[Path]:
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
    if find_compiler() is None:
        looked = os.environ.get("CXX") or ", ".join(COMPILERS)
        raise StepFailed(
            f"no C++ compiler found (looked for {looked}), which torch-scatter and torch-cluster "
            "need. Install one (Debian and Ubuntu: apt-get install g++; Fedora: dnf install "
            "gcc-c++) or name one in CXX, then run again"
        )
