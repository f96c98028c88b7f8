"""What `lightning predict` passes around: a data module that reads and checks one request.

A request holds its whole input.  It runs on a trained module and gives a result, which can write
itself; the process of rank zero does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.files.outputs import prepare_output
from common.prediction import RequestDataModule
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.record import read_record
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.inputs import check_embedder
from protein_cvae.generation.outputs import check_output
from protein_cvae.model.network import ProteinCVAE


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

    @property
    def inputs(self) -> tuple[Ensemble, ...]:
        """What was read for it."""
        ...

    def run(self, network: ProteinCVAE, checkpoint: Path | None) -> Result:
        """Make it with a trained network, whose weights come from ``checkpoint``."""
        ...

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Request:
        """Itself: Lightning moves batches, but ensembles stay on the CPU."""
        ...


class TaskDataModule(RequestDataModule):
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

    def setup(self, stage: str) -> None:
        if stage == "predict":
            check_embedder(self._network(), self.embedder)
        super().setup(stage)
        prepare_output(self.output, "output")
        tell_reading(self.request)

    def predict_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None, "dataloaders are asked for by a Trainer"
        path = self.trainer.ckpt_path
        if path is None:
            rank_zero_warn("no --ckpt_path is given: the model has the weights it was built with")
        elif self.embedder is not None:
            check_embedder(self._network(), self.embedder, trained_embedder(path))
        return super().predict_dataloader()

    def _network(self) -> ProteinCVAE:
        assert self.trainer is not None, "setup is called by a Trainer"
        module = self.trainer.lightning_module
        network = getattr(module, "model", None)
        if not isinstance(network, ProteinCVAE):
            raise UserError(
                f"{type(self).__name__} needs protein_cvae.ProteinCVAEModule, got "
                f"{type(module).__name__}; set model.class_path"
            )
        return network


def tell_reading(request: Request) -> None:
    """One line on each file that was read, with what was dropped, masked or renamed in it."""
    for ensemble in request.inputs:
        if bool(ensemble.mask.any()):  # a bare sequence was not read from a structure
            rank_zero_info(f"read {ensemble.summary()}")


def trained_embedder(checkpoint: str | Path) -> str | None:
    """Identity of the embedder that a checkpoint was trained with; None if it had none.

    Raises:
        ValueError: if the checkpoint does not say.
    """
    record = read_record(checkpoint)
    if record is None:
        raise UserError(
            f"{checkpoint} does not say which sequence embedder it was trained with; use a "
            "checkpoint of a fit with EnsembleDataModule"
        )
    identity: str | None = record["embedder"]
    return identity


def serve(data: TaskDataModule, network: ProteinCVAE, checkpoint: Path) -> list[Path]:
    """Read, run and write a request without a Trainer; what was written.

    Args:
        data: the request.
        network: trained, in eval mode.
        checkpoint: the file its weights come from.
    """
    trained = None if data.embedder is None else trained_embedder(checkpoint)
    check_embedder(network, data.embedder, trained)
    request: Request = data.read()
    prepare_output(data.output, "output")
    tell_reading(request)
    return written(request.run(network, checkpoint))


def written(result: Result) -> list[Path]:
    """Write a result and say so."""
    paths = result.write()
    print(result.message())
    print(f"wrote {' and '.join(map(str, paths))}", flush=True)
    return paths
