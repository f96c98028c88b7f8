"""The training stages of the pipeline, each run anew only when what it reads has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import MissingFile, UserError
from common.files.atomic import atomic_path
from common.training.stage import run_stage
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import SPLIT_VERSION
from spatial_ipa.encoder.frozen import ENCODER_VERSION
from spatial_ipa.encoder.stage import EncoderInputs, ensure_encoder, yaml_list


def run_once(
    output: Path, inputs: list[Any], make: Callable[[], None], *, quiet: bool = False
) -> None:
    """Run ``make`` unless ``output`` was made from the same inputs before; say so if not quiet.

    Raises:
        ValueError: if it ends without having written ``output``.
    """
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    stamp = output.with_name(output.name + ".inputs")
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        if not quiet:
            print(f"      reused {output}", flush=True)
        return
    stamp.unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    make()
    if not output.exists():
        raise UserError(f"the stage ended without writing {output}")
    with atomic_path(stamp) as temporary:
        temporary.write_text(key)


def stage_content(
    train: list[Slide], validation: list[Slide], holdout: list[Slide], scrna: list[Slide]
) -> dict[str, list[str] | list[int]]:
    """What the training stages read, by role: the same slides in other roles are other inputs."""
    roles = {"train": train, "validation": validation, "holdout": holdout, "scrna": scrna}
    return {
        "versions": [ENCODER_VERSION, SPLIT_VERSION],
        **{role: [slide.content_hash for slide in slides] for role, slides in roles.items()},
    }


def read_config(path: str) -> str:
    """The text of a configuration.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).is_file():
        raise MissingFile(f"configuration {path}: no such file")
    return Path(path).read_text()


def fit_encoder(folder: Path, config: str, inputs: EncoderInputs, seed: int) -> None:
    """Train the encoder to ``folder/encoder.pt``, unless it is there."""
    ensure_encoder(
        folder / "encoder.pt",
        config,
        inputs,
        [
            f"--seed_everything={seed}",
            f"--model.init_args.seed={seed}",
            f"--data.init_args.draws.seed={seed}",
            f"--trainer.default_root_dir={folder / 'encoder'}",
            f"--trainer.logger.init_args.save_dir={folder}",
        ],
    )


def fit_joint(
    folder: Path,
    configs: Sequence[str],
    inputs: EncoderInputs,
    validation: Sequence[str],
    overrides: Sequence[str],
    seed: int,
) -> None:
    """Train gate and model to ``folder/spatial_ipa.ckpt``, on ``folder/encoder.pt``."""
    run_stage(
        [
            "fit",
            *(f"--config={config}" for config in configs),
            f"--seed_everything={seed}",
            f"--data.init_args.minisets.seed={seed}",
            f"--trainer.default_root_dir={folder / 'joint'}",
            f"--trainer.logger.init_args.save_dir={folder}",
            f"--data.init_args.train_slides={yaml_list(inputs.train)}",
            f"--data.init_args.val_slides={yaml_list(validation)}",
            f"--data.init_args.encoder.path={folder / 'encoder.pt'}",
            f"--data.init_args.encoder.cache={folder / 'cache'}",
            *inputs.keys.flags("data.init_args.keys"),
            "--data.init_args.simulate=null",
            f"--model.init_args.export={folder / 'spatial_ipa.ckpt'}",
            *overrides,
        ]
    )
