"""Using a trained model: generate, interpolate, encode; each a Python call and one command."""

from protein_cvae.tasks.encode import EncodedLatents, encode_models
from protein_cvae.tasks.encode_command import EncodeDataModule
from protein_cvae.tasks.generate import GenerateOptions, generate
from protein_cvae.tasks.generate_command import GenerateDataModule
from protein_cvae.tasks.inputs import read_fasta, read_input, sequence_ensemble
from protein_cvae.tasks.interpolate import InterpolateOptions, interpolate
from protein_cvae.tasks.interpolate_command import InterpolateDataModule

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
