"""The training stages of the pipeline, each run anew only when what it reads has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MissingFile, UserError
from common.files.atomic import atomic_path
from common.files.configs import find_config
from common.training.stage import run_stage
from spatial_ipa.confidence.conformal import CALIBRATION_VERSION
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import SPLIT_VERSION
from spatial_ipa.encoder.frozen import ENCODER_VERSION, FrozenEncoder
from spatial_ipa.encoder.stage import EncoderInputs, ensure_encoder, yaml_list
from spatial_ipa.layout.charts import CHARTS_VERSION
from spatial_ipa.layout.frame_regression import FRAME_VERSION


class Stopwatch:
    """Seconds of parts that follow each other."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = []

    def start(self, part: str) -> None:
        """End the part before and begin this one."""
        self._marks.append((part, time.monotonic()))

    def report(self) -> str:
        """The parts so far and their sum: ``encoder 12 s, model 40 s; 52 s in all``."""
        ends = [mark for _, mark in self._marks[1:]] + [time.monotonic()]
        parts = [
            f"{part} {end - mark:.0f} s"
            for (part, mark), end in zip(self._marks, ends, strict=True)
        ]
        return f"{', '.join(parts)}; {ends[-1] - self._marks[0][1]:.0f} s in all"


def run_once(output: Path, inputs: list[Any], make: Callable[[], None]) -> bool:
    """Run ``make`` unless ``output`` was made from the same inputs before.

    Returns:
        Whether it was run; False where the earlier output is used.

    Raises:
        ValueError: if it ends without having written ``output``.
    """
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    stamp = output.with_name(output.name + ".inputs")
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        return False
    stamp.unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    make()
    if not output.exists():
        raise UserError(f"the stage ended without writing {output}")
    with atomic_path(stamp) as temporary:
        temporary.write_text(key)
    return True


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
    """The text of a configuration; ``configs/...`` may be a shipped one.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    found = find_config(path)
    if not found.is_file():
        raise MissingFile(f"configuration {path}: no such file")
    return found.read_text()


@dataclass(frozen=True)
class Training:
    """Both training stages, as ``lightning fit`` commands that write to one folder.

    Attributes:
        folder: gets ``encoder.pt`` and ``spatial_ipa.ckpt``.
        encoder_config: configuration of the encoder.
        encoder_overrides: further arguments of the first stage.
        configs: configuration of gate and model, and its overlays.
        inputs: of the encoder; its training slides are those of the model, too.
        validation: files, folders or glob patterns of validation slides.
        overrides: further arguments of the second stage.
        seed: of initial weights and all draws.
        content: identity of what is read, of :func:`stage_content`.
    """

    folder: Path
    encoder_config: str
    encoder_overrides: Sequence[str]
    configs: Sequence[str]
    inputs: EncoderInputs
    validation: Sequence[str]
    overrides: Sequence[str]
    seed: int
    content: dict[str, list[str] | list[int]]

    @property
    def encoder_file(self) -> Path:
        return self.folder / "encoder.pt"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "spatial_ipa.ckpt"

    def encoder(self) -> bool:
        """Train the encoder; False if that of the same inputs is there."""
        read = [
            self.content,
            read_config(self.encoder_config),
            list(self.encoder_overrides),
            self.seed,
        ]
        return run_once(self.encoder_file, read, self._fit_encoder)

    def model(self, encoder: FrozenEncoder) -> bool:
        """Train gate and model on the encoder; False if they are there."""
        read = [
            self.content,
            [CALIBRATION_VERSION, FRAME_VERSION, CHARTS_VERSION],
            encoder.weights_hash,
            [read_config(config) for config in self.configs],
            list(self.overrides),
            self.seed,
        ]
        return run_once(self.checkpoint, read, self._fit_model)

    def _fit_encoder(self) -> None:
        ensure_encoder(
            self.encoder_file,
            self.encoder_config,
            self.inputs,
            [
                f"--seed_everything={self.seed}",
                f"--model.init_args.seed={self.seed}",
                f"--data.init_args.draws.seed={self.seed}",
                f"--trainer.default_root_dir={self.folder / 'encoder'}",
                f"--trainer.logger.init_args.save_dir={self.folder}",
                *self.encoder_overrides,
            ],
        )

    def _fit_model(self) -> None:
        run_stage(
            [
                "fit",
                *(f"--config={config}" for config in self.configs),
                f"--seed_everything={self.seed}",
                f"--data.init_args.minisets.seed={self.seed}",
                f"--trainer.default_root_dir={self.folder / 'joint'}",
                f"--trainer.logger.init_args.save_dir={self.folder}",
                f"--data.init_args.train_slides={yaml_list(self.inputs.train)}",
                f"--data.init_args.val_slides={yaml_list(self.validation)}",
                f"--data.init_args.encoder.path={self.encoder_file}",
                f"--data.init_args.encoder.cache={self.folder / 'cache'}",
                *self.inputs.keys.flags("data.init_args.keys"),
                self.inputs.memory_flag,
                "--data.init_args.simulate=null",
                f"--model.init_args.export={self.checkpoint}",
                *self.overrides,
            ]
        )
