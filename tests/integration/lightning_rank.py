"""Runs `lightning` commands, one after the other, as one rank: ``lightning_rank.py COMMANDS.json``.

Starting a process takes longer than a small fit, so several fits share it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common.cli.main import main

if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text()):
        main(command)
