"""What a figure was measured on, as one line for tables and reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def processor() -> str:
    """Model name of the CPU; its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(*packages: str, threads: int | None = None) -> str:
    """CPU, cores this process may use, threads, Python, torch and the versions of ``packages``.

    Args:
        packages: names of installed distributions, such as ``"scikit-learn"``.
        threads: of a child process; ``torch.get_num_threads()`` of this one if not given.

    Raises:
        importlib.metadata.PackageNotFoundError: if one of ``packages`` is not installed.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    parts = [
        processor(),
        f"{cores} core(s)",
        f"{threads or torch.get_num_threads()} thread(s)",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        *(f"{name} {version(name)}" for name in packages),
    ]
    return ", ".join(parts)


def machines_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The machines that rows of results name under ``"machine"``, and how many name none."""
    named = [row.get("machine") for row in rows]
    parts = [f"{name} (rows: {named.count(name)})" for name in dict.fromkeys(named) if name]
    if unknown := named.count(None):
        parts.append(f"not recorded (rows: {unknown})")
    return "; ".join(parts)
