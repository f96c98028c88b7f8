"""What the scripts beside this one share: configurations, cases, networks, and rows of results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser
from torch import Tensor

from common.errors import UserError
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.record import read_record
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import Row
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import repeat_item
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

UNTRAINED, OUTSIDE = "untrained", "outside"
"""Makers of rows: a network as drawn, and what :mod:`outside` reads."""


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """YAML files laid over each other: mappings are merged, everything else is replaced."""

    def over(base: Any, new: Any) -> Any:
        if isinstance(base, dict) and isinstance(new, dict):
            return {**base, **{key: over(base.get(key), value) for key, value in new.items()}}
        return new

    result: dict[str, Any] = {}
    for path in paths:
        result = over(result, yaml.safe_load(path.read_text(encoding="utf-8")))
    return result


def read_cases(config: dict[str, Any]) -> tuple[EnsembleDataModule, EvaluationCases]:
    """Set up the data module of a configuration; its cases."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EnsembleDataModule, "data")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # before 4.49
    data: EnsembleDataModule = instantiate(parser.parse_object({"data": config["data"]})).data
    data.setup("test")
    return data, data.cases


def read_model(path: Path, data: EnsembleDataModule, device: str) -> ProteinCVAEModule:
    """The model of a checkpoint, which must not have learned from what is scored."""
    data.check_record(read_record(path), resume=False)
    module = ProteinCVAEModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return module.to(device).eval()


def untrained_network(config: dict[str, Any], seed: int, device: str) -> ProteinCVAE:
    """The network that a configuration describes, with random weights."""
    settings = NetworkSettings(**config["model"]["init_args"]["network"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ProteinCVAE(settings)
    return network.to(device).eval()


def finished(x: Tensor, case: EvaluationCase, options: FinishOptions | None = None) -> Tensor:
    """Conformers (K, L, 3, 3), Å, of a case with valid geometry."""
    finish, item = geometry_finisher(options=options), case.item()
    parts = []
    for part in x.split(32):
        batch = repeat_item(item, len(part))
        parts.append(finish(part, batch, batch.mask))
    return torch.cat(parts)


def experiment(
    settings: EvaluationSettings, on_core: bool, data: EnsembleDataModule
) -> dict[str, str]:
    """What rows of one table have in common."""
    chosen = {**asdict(settings), "core": on_core}
    return {"settings": json.dumps(chosen), "split": data.split.digest}


def check_one_experiment(rows: Sequence[Row], path: Path) -> None:
    """Refuse rows that no one table can hold.

    Raises:
        ValueError: if so.
    """
    experiments = {(row["settings"], row["split"]) for row in rows}
    if len(experiments) != 1:
        raise UserError(
            f"{path} holds {len(experiments)} experiments (settings or splits); use one folder for "
            "each"
        )
    for maker in dict.fromkeys(row["maker"] for row in rows):
        models = {row.get("weights") for row in rows if row["maker"] == maker}
        if len(models) > 1:
            raise UserError(
                f"{path} holds {len(models)} models under the name {maker!r}; give each a --tag or "
                "a folder of its own"
            )


def read(path: Path) -> list[Row]:
    """Rows of a file; none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
