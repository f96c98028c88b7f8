"""Using a trained model: generate, interpolate, encode; each a Python call and one command."""

from protein_cvae.tasks.encode import EncodeDataModule, EncodedLatents, encode_models
from protein_cvae.tasks.generate import GenerateDataModule, GenerateOptions, generate
from protein_cvae.tasks.inputs import read_fasta, read_input, sequence_ensemble
from protein_cvae.tasks.interpolate import (
    InterpolateDataModule,
    InterpolateOptions,
    interpolate,
)

__all__ = [
    "EncodeDataModule",
    "EncodedLatents",
    "GenerateDataModule",
    "GenerateOptions",
    "InterpolateDataModule",
    "InterpolateOptions",
    "encode_models",
    "generate",
    "interpolate",
    "read_fasta",
    "read_input",
    "sequence_ensemble",
]
