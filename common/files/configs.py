"""Where the configurations that ship with the package lie.

In a checkout they are the folder ``configs/``; an installed wheel puts the same files under
``share/edgewise/configs`` of its environment (``[tool.setuptools.data-files]``).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from common.errors import MissingFile

_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"


def shipped_config(name: str) -> Path:
    """A configuration by its path below ``configs/``, such as ``spatial_ipa/fit.yaml``.

    Raises:
        MissingFile: naming both places, if it is in neither.
    """
    installed = Path(sysconfig.get_path("data")) / "share" / "edgewise" / "configs"
    for folder in (_CHECKOUT, installed):
        if (folder / name).is_file():
            return folder / name
    raise MissingFile(
        f"the configuration {name} is neither in {_CHECKOUT} nor in {installed}; install the "
        "package again, or run from a checkout"
    )


def find_config(path: str) -> Path:
    """A file as it is; ``configs/...`` that is not there leads to the shipped one of that name."""
    given = Path(path)
    if given.exists() or given.is_absolute() or given.parts[:1] != ("configs",):
        return given
    try:
        return shipped_config(str(Path(*given.parts[1:])))
    except MissingFile:
        return given  # whoever opens it says that it is missing
