"""Hyperparameters as a checkpoint may hold them: plain types, which load without running code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from lightning.pytorch import LightningModule


def make_plain(module: LightningModule) -> None:
    """Turn settings that ``save_hyperparameters`` took as dataclasses into dictionaries.

    From the command line they come as dictionaries already.
    """
    for name, value in module.hparams.items():
        if is_dataclass(value) and not isinstance(value, type):
            module.hparams[name] = asdict(value)


def regroup(
    found: Mapping[str, Any],
    groups: Mapping[str, type],
    renamed: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Hyperparameters that stand side by side, grouped as dictionaries of settings.

    Args:
        found: of a checkpoint; what is grouped already stays as it is.
        groups: dataclass by the name of its group; its fields are looked for in ``found``.
        renamed: group and field by a name that ``found`` may have instead.
    """
    places = {f.name: (group, f.name) for group, kind in groups.items() for f in fields(kind)}
    places |= renamed or {}
    given = {name: value for name, value in found.items() if name not in places}
    for name, (group, field) in places.items():
        if name in found:
            given.setdefault(group, {})[field] = found[name]
    return given
