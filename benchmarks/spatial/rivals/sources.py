"""Which version of its source a checkout holds; standard library alone."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(source: Path) -> str:
    """First digits of a checkout's commit; ``unknown`` if it is no Git repository."""
    # A folder inside another repository would answer with that one's commit.
    if not (source / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(source), "rev-parse", "--short=8", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
