"""Using a trained model: generate, interpolate, encode; each a Python call and one command."""

from protein_cvae.generation.commands.encode import EncodeDataModule
from protein_cvae.generation.commands.generate import GenerateDataModule
from protein_cvae.generation.commands.interpolate import InterpolateDataModule
from protein_cvae.generation.encode import EncodedLatents, encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import read_fasta, read_input, sequence_ensemble
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate

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
