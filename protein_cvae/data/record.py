"""What a checkpoint records of the data: the split, and which embedder read the sequences.

It stands under a key of this package, whatever class of data module was used, so that what is
scored later can always be checked against what was learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

DATA_KEY = "protein_cvae_data"
# Where checkpoints without that key hold the same record: under the name of a class.
_OLD_KEY = "EnsembleDataModule"

DataRecord = dict[str, Any]


def data_record(checkpoint: Mapping[str, Any]) -> DataRecord | None:
    """The record ``{"split": ..., "embedder": ...}`` of a checkpoint; None if it holds none."""
    record: DataRecord | None = checkpoint.get(DATA_KEY, checkpoint.get(_OLD_KEY))
    return record


def read_record(path: str | Path) -> DataRecord | None:
    """The record in a checkpoint file; None if it holds none."""
    return data_record(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
