"""Trainings as they are run from Python: what the files of ``configs/spatial_ipa`` say.

Settings that have the same value by default are left to the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from common.files.atomic import atomic_path

Size = Literal["laptop", "full"]

ENCODER: dict[str, Any] = {
    "model": {
        "class_path": "spatial_ipa.EncoderModule",
        "init_args": {
            "output": "encoder.pt",
            "optimizer": {
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": 1.0e-3, "weight_decay": 1.0e-2},
            },
        },
    },
    "data": {"class_path": "spatial_ipa.EncoderDataModule", "init_args": {"train_slides": []}},
    "trainer": {
        "max_epochs": 10,
        "accelerator": "auto",
        "devices": 1,
        "log_every_n_steps": 10,
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": ".", "name": "encoder"},
        },
    },
}
"""``encoder.yaml``."""

FULL: dict[str, Any] = {
    "model": {"class_path": "spatial_ipa.SpatialIPAModule"},
    "data": {
        "class_path": "spatial_ipa.SlideDataModule",
        "init_args": {"train_slides": [], "val_slides": [], "minisets": {"num_workers": 4}},
    },
    "trainer": {
        "max_epochs": 30,
        "gradient_clip_val": 1.0,
        "accelerator": "auto",
        "devices": 1,
        "log_every_n_steps": 10,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": ".", "name": "spatial_ipa"},
        },
        "callbacks": [
            {
                "class_path": "common.training.callbacks.RampedModelCheckpoint",
                "init_args": {"monitor": "val/e_geo"},
            },
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"save_last": True, "save_top_k": 1},
            },
            {
                "class_path": "common.training.callbacks.RampedEarlyStopping",
                "init_args": {"monitor": "val/e_geo", "patience": 4},
            },
            {"class_path": "common.training.callbacks.EpochResources"},
        ],
    },
}
"""``fit.yaml``."""

LAPTOP: dict[str, Any] = {
    "data": {
        "init_args": {
            "minisets": {
                "per_epoch": 96,
                "val_per_slide": 10,
                "batch_size": 4,
                "num_rows": 64,
                "num_workers": 0,
            }
        }
    },
    "trainer": {"max_epochs": 10, "accelerator": "cpu"},
}
"""``laptop.yaml``, an overlay."""


def write_recipes(folder: Path, size: Size) -> tuple[str, list[str]]:
    """Write the configurations of both stages to ``folder``.

    Returns:
        The file of the encoder, and those of the joint stage in order.
    """
    recipes = {"encoder": ENCODER, "fit": FULL} | ({"laptop": LAPTOP} if size == "laptop" else {})
    paths = {name: folder / f"{name}.yaml" for name in recipes}
    for name, recipe in recipes.items():
        with atomic_path(paths[name]) as temporary:
            temporary.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(paths.pop("encoder")), [str(path) for path in paths.values()]
