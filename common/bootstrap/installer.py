"""Who installs packages into the environment: uv, which is many times faster, or pip.

pip brings uv where it is not present, and goes on where uv fails.  uv does not read pip's settings:
they are handed to it, so that both ask the same package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.bootstrap.environment import Venv
from common.bootstrap.steps import Step, StepFailed, run_steps, say

INSTALLER_VARIABLE = "EDGEWISE_INSTALLER"
INSTALLERS = ("auto", "uv", "pip")
NETWORK_ADVICE = "check that pip reaches its package index (`pip config list`) and the disk space"
# What uv calls the settings of pip, and what stands between several values; None takes the last.
_UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", None),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", None),
}


def choose(wanted: str, venv: Venv, root: Path) -> str:
    """The installer's program: ``pip``, or the path of uv, which pip brings where there is none.

    Raises:
        StepFailed: on an unknown name, or if ``uv`` is asked for and cannot be had.
    """
    if wanted not in INSTALLERS:
        raise StepFailed(f"{INSTALLER_VARIABLE} is {wanted!r}; choose {', '.join(INSTALLERS)}")
    if wanted == "pip":
        return "pip"
    own = venv.folder / "bin" / "uv"
    found = shutil.which("uv") or (str(own) if own.exists() else None)
    if found is not None:
        return found
    step = Step("install uv", venv.pip("install", "uv"), f"or choose pip: {INSTALLER_VARIABLE}=pip")
    try:
        run_steps([step], venv.logs, root)
    except StepFailed as error:
        if wanted == "uv":
            raise
        say(f"{error}\npip installs instead")
        return "pip"
    return str(own)


def install_step(name: str, venv: Venv, program: str, arguments: Sequence[str]) -> Step:
    """The step that installs ``arguments``, in pip's words, which uv understands."""
    if program == "pip":
        # Files are compiled to bytecode when they are first imported, which most never are.
        command = venv.pip("install", "--no-compile", *arguments)
    else:
        command = (program, "pip", "install", "--python", venv.python, *arguments)
    return Step(name, command, NETWORK_ADVICE)


def run_install(
    steps: Mapping[str, Sequence[str]], venv: Venv, program: str, root: Path
) -> dict[str, float]:
    """Install side by side; seconds of each step.

    Args:
        steps: arguments of the installer, by the name of the step.
        venv: environment to install into.
        program: of :func:`choose`.
        root: working directory.

    Raises:
        StepFailed: if pip fails.
    """

    def attempt(with_program: str) -> dict[str, float]:
        todo = [install_step(name, venv, with_program, given) for name, given in steps.items()]
        settings = {} if with_program == "pip" else _uv_settings(venv)
        return run_steps(todo, venv.logs, root, {"PATH": venv.path, **settings})

    if program != "pip":
        try:
            return attempt(program)
        except StepFailed as error:
            say(f"{error}\nuv could not do it; pip goes on")
    return attempt("pip")


def _uv_settings(venv: Venv) -> dict[str, str]:
    """Variables of uv for what pip is set to, by files or variables; those already set win."""
    listed = subprocess.run(venv.pip("config", "list"), capture_output=True, text=True).stdout
    values: dict[str, list[str]] = {}
    for where, option, value in re.findall(r"^([\w:]+)\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        if where in ("global", "install", ":env:"):
            values.setdefault(option, []).extend(value.replace("\\n", " ").split())
    found = {
        variable: values[option][-1] if separator is None else separator.join(values[option])
        for option, (variable, separator) in _UV_VARIABLES.items()
        if option in values
    }
    # As pip does: the best version of all indexes, not of the first that has the package.
    if "extra-index-url" in values:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in found.items() if name not in os.environ}
