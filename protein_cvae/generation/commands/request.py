"""What `lightning predict` passes around: a data module that reads and checks one request.

A request holds its whole input.  It runs on a trained module and gives a result, which can write
itself; the process of rank zero does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.files.outputs import prepare_output
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.generation.outputs import check_output
from protein_cvae.module import ProteinCVAEModule


class Result(Protocol):
    """Something made, not yet written."""

    def write(self) -> list[Path]:
        """Write it and say where."""
        ...

    def message(self) -> str:
        """One line about it."""
        ...


class Request(Protocol):
    """Something to be made."""

    def run(self, module: ProteinCVAEModule) -> Result:
        """Make it."""
        ...

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Request:
        """Itself: Lightning moves batches, but ensembles stay on the CPU."""
        ...


def check_embedder(
    module: ProteinCVAEModule, embedder: SequenceEmbedder | None, trained: str | None = None
) -> None:
    """Refuse another sequence embedder than that of the training.

    Args:
        module: trained.
        embedder: given.
        trained: identity of the embedder in training, where known.

    Raises:
        ValueError: saying what differs.
    """
    width = 0 if embedder is None else embedder.width
    wanted = module.model.d_embedding
    if width != wanted:
        has = "learned without a sequence embedder" if wanted == 0 else (
            f"trained with sequence embeddings of width {wanted}"
        )  # fmt: skip
        given = "none is given" if width == 0 else f"one of width {width} is given"
        raise UserError(f"embedder: the model was {has}, {given}; set embedder as in training")
    if embedder is not None and trained is not None and embedder.identity != trained:
        raise UserError(
            f"embedder: the model was trained with {trained[:12]}, given is "
            f"{embedder.identity[:12]}, of the same width but with other weights; set embedder as "
            "in training"
        )


def trained_embedder(checkpoint: str | Path) -> str | None:
    """Identity of the embedder that a checkpoint was trained with; None if it does not say."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    # Lightning keeps the state of the data module under the name of its class.
    return content.get("EnsembleDataModule", {}).get("embedder")


class TaskDataModule(pl.LightningDataModule):
    """One request, read and checked in ``setup``.

    Args:
        output: file to write.
        inputs: files that are read, and must not be written over.
        embedder: of sequences.
        overwrite: replace an existing output.
    """

    def __init__(
        self,
        output: str,
        inputs: tuple[Path, ...],
        embedder: SequenceEmbedder | None,
        overwrite: bool,
    ) -> None:
        super().__init__()
        self.output, self.embedder = Path(output), embedder
        check_output(self.output, overwrite, inputs)

    def read(self) -> Request:
        """Read and check the input."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        name = type(self).__name__
        if stage != "predict":
            raise UserError(f"{name} only serves `lightning predict`, not {stage}")
        assert self.trainer is not None, "setup is called by a Trainer"
        module = self.trainer.lightning_module
        if not isinstance(module, ProteinCVAEModule):
            raise UserError(
                f"{name} needs protein_cvae.module.ProteinCVAEModule, got {type(module).__name__}; "
                "set model.class_path"
            )
        check_embedder(module, self.embedder)
        self.request = self.read()
        prepare_output(self.output, "output")

    def predict_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        path = self.trainer.ckpt_path
        if path is None:
            rank_zero_warn("no --ckpt_path is given: the model has the weights it was built with")
        elif self.embedder is not None:
            module = self.trainer.lightning_module
            assert isinstance(module, ProteinCVAEModule)
            check_embedder(module, self.embedder, trained_embedder(path))
        return DataLoader([self.request], batch_size=None)  # type: ignore[arg-type]
