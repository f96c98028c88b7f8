"""The encoder as a stage of its own, before what uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import MissingFile
from common.training.stage import run_stage
from spatial_ipa.data.keys import SlideKeys


@dataclass(frozen=True)
class EncoderInputs:
    """What an encoder is trained on.

    Attributes:
        train: files, folders or glob patterns of training slides.
        heldout: the same, of held-out slides.
        scrna: the same, of dissociated samples.
        keys: where in a slide's file its parts are.
        scrna_keys: the same for samples; as ``keys`` where null.
        memory_mb: counts of all slides kept in memory (:func:`spatial_ipa.data.run.read_run`).
    """

    train: Sequence[str]
    heldout: Sequence[str]
    scrna: Sequence[str]
    keys: SlideKeys
    scrna_keys: SlideKeys
    memory_mb: float | None

    @property
    def memory_flag(self) -> str:
        """The argument of ``lightning fit`` for ``memory_mb``."""
        held = "null" if self.memory_mb is None else str(self.memory_mb)
        return f"--data.init_args.memory_mb={held}"


def ensure_encoder(
    output: Path, config: str | Path | None, inputs: EncoderInputs, further: Sequence[str] = ()
) -> None:
    """Train an encoder with ``lightning fit``, unless its file is there.

    Args:
        output: file of the encoder.
        config: configuration of the stage.
        inputs: what to train on; no tissue is simulated.
        further: arguments of ``lightning fit`` beyond those.

    Raises:
        FileNotFoundError: if there is neither the file nor a configuration.
        ValueError: if the stage fails.
    """
    if output.exists():
        return
    if config is None:
        raise MissingFile(
            f"encoder {output} does not exist; train it with `lightning fit "
            "--config configs/spatial_ipa/encoder.yaml`, or set data.init_args.encoder.config"
        )
    lists = {
        "train_slides": inputs.train,
        "heldout_slides": inputs.heldout,
        "scrna": inputs.scrna,
    }
    run_stage(
        [
            "fit",
            f"--config={config}",
            *further,
            f"--model.init_args.output={output}",
            *(f"--data.init_args.{name}={yaml_list(files)}" for name, files in lists.items()),
            *inputs.keys.flags("data.init_args.keys"),
            *inputs.scrna_keys.flags("data.init_args.scrna_keys"),
            inputs.memory_flag,
            # The tissue is there already, if it is a simulated one that is trained on.
            "--data.init_args.simulate=null",
        ]
    )


def yaml_list(values: Sequence[str]) -> str:
    """A YAML flow list of strings, for a command line."""
    quoted = (value.replace("'", "''") for value in values)
    return "[" + ", ".join(f"'{value}'" for value in quoted) + "]"
