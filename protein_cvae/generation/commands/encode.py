"""`lightning predict` for :mod:`protein_cvae.generation.encode`: one ensemble to one .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from common.errors import UserError
from common.files.atomic import atomic_path
from common.report.tables import to_json
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.request import TaskDataModule
from protein_cvae.generation.encode import (
    EncodedLatents,
    check_encoding,
    encode_against,
    encode_models,
)
from protein_cvae.generation.inputs import (
    ReadingOptions,
    read_input,
)
from protein_cvae.generation.outputs import checkpoint_provenance, json_path
from protein_cvae.io.matching import match_residues
from protein_cvae.model.network import ProteinCVAE


@dataclass(frozen=True, eq=False)
class EncodeResult:
    """Latents to write, with what goes into the JSON file beside them."""

    latents: EncodedLatents
    path: Path
    summary: dict[str, Any]

    def write(self) -> list[Path]:
        beside = json_path(self.path)
        with atomic_path(beside) as temporary:
            temporary.write_text(to_json(self.summary, indent=2), encoding="utf-8")
            self.latents.save(self.path)
        return [self.path, beside]

    def message(self) -> str:
        kl = self.summary["kl_nats_per_residue"]
        terms = ", ".join(f"{name} {value:.3f}" for name, value in kl.items())
        return f"{len(self.latents.model_numbers)} models encoded; KL per residue (nats): {terms}"


@dataclass(frozen=True, eq=False)
class EncodeRequest:
    """One ensemble to encode, and where to write its latents."""

    ensemble: Ensemble
    template: int | None
    path: Path
    embedder: SequenceEmbedder | None
    reading: ReadingOptions
    other: Ensemble | None = None
    left_out: str = ""

    @property
    def inputs(self) -> tuple[Ensemble, ...]:
        return (self.ensemble,) if self.other is None else (self.ensemble, self.other)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncodeRequest:
        return self

    def run(self, network: ProteinCVAE, checkpoint: Path | None) -> EncodeResult:
        provenance = checkpoint_provenance(checkpoint, self.embedder)
        if self.other is None:
            latents = encode_models(network, self.ensemble, self.template, self.embedder)
        else:
            latents = encode_against(network, self.ensemble, self.other, self.embedder)
        length = self.ensemble.length
        summary = {
            "task": "encode",
            **provenance,
            "input": {
                "name": self.ensemble.name,
                "file": Path(self.ensemble.source).name,
                "chains": self.reading.chains,
                "residues": length,
                "models": self.ensemble.num_models,
                "template_model": latents.template_model,
                "template_file": None if self.other is None else Path(self.other.source).name,
                "left_out": self.left_out,
                "reading": [e.report.to_list() for e in self.inputs],
            },
            "kl_nats_per_residue": {
                "noise": latents.noise,
                "z_global": float(latents.kl_global.mean() / length),
                "shift": float(latents.kl_shift.mean() / length),
                "turn": float(latents.kl_turn.mean() / length),
            },
        }
        return EncodeResult(latents, self.path, summary)


class EncodeDataModule(TaskDataModule):
    """One ensemble to encode; for ``lightning predict``.

    Args:
        input: PDB or mmCIF file, or folder with a topology and trajectories.
        output: .npz file to write; its name and ".json" takes the provenance.
        template: what latents are relative to: number of a model; a file, for its first model; or
            null for the central one.  A file need not have the same residues, see ``reading``.
        reading: what is taken of the input and of a template's file; ``incomplete: drop`` leaves
            out residues that only one of them has, by number or sequence alignment.
        embedder: of sequences, as in training.
        overwrite: replace an existing output.

    Raises:
        ValueError: on another suffix of the output.
        FileExistsError: if the output exists.
    """

    def __init__(
        self,
        input: str,
        output: str,
        template: int | str | None = None,
        reading: ReadingOptions = ReadingOptions(),
        embedder: SequenceEmbedder | None = None,
        overwrite: bool = False,
    ) -> None:
        if Path(output).suffix != ".npz":
            raise UserError(f"output: {output} must end in .npz")
        files = [input, template] if isinstance(template, str) else [input]
        super().__init__(output, tuple(map(Path, files)), embedder, overwrite)
        self.input, self.template, self.reading = Path(input), template, reading

    def read(self) -> EncodeRequest:
        ensemble = read_input(self.input, "input", self.reading)
        if not isinstance(self.template, str):
            check_encoding(ensemble, self.template)
            return EncodeRequest(ensemble, self.template, self.output, self.embedder, self.reading)
        other = read_input(self.template, "template", self.reading).select_models([0])
        drop = self.reading.incomplete == "drop"
        ensemble, other, left_out = match_residues(ensemble, other, drop)
        for given in (ensemble, other):
            check_encoding(given, None)
        if left_out:
            rank_zero_info(f"residues left out of the latents: {left_out}")
        return EncodeRequest(
            ensemble, None, self.output, self.embedder, self.reading, other, left_out
        )
