"""A hierarchical conditional VAE over the conformations of a protein.

    model = protein_cvae.fit("my/nmr/*.cif.gz", out="runs/mine")
    model = protein_cvae.load("runs/mine/protein_cvae.ckpt")
    new = model.generate("2sdf.pdb", 100)
    protein_cvae.write("new.cif", new)
    protein_cvae.pl.traces(new)

Names are imported when they are first used: importing the package itself is fast.
"""

from common.public import lazy_names

__all__ = [
    "DrawSettings",
    "EncodeDataModule",
    "Ensemble",
    "EnsembleDataModule",
    "EsmEmbedder",
    "EvaluationSettings",
    "GenerateDataModule",
    "GenerateOptions",
    "InterpolateDataModule",
    "InterpolateOptions",
    "LossWeights",
    "NetworkSettings",
    "Preset",
    "ProteinCVAEModule",
    "ProteinModel",
    "Sources",
    "SplitSettings",
    "SpreadOptions",
    "TimeBlocks",
    "fit",
    "load",
    "pl",
    "read",
    "write",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DrawSettings": "data.settings",
        "EncodeDataModule": "generation.commands.encode",
        "Ensemble": "ensemble",
        "EnsembleDataModule": "data.datamodule",
        "EsmEmbedder": "data.embeddings",
        "EvaluationSettings": "evaluation.settings",
        "GenerateDataModule": "generation.commands.generate",
        "GenerateOptions": "generation.generate",
        "InterpolateDataModule": "generation.commands.interpolate",
        "InterpolateOptions": "generation.interpolate",
        "LossWeights": "model.losses",
        "NetworkSettings": "model.settings",
        "Preset": "presets",
        "ProteinCVAEModule": "module",
        "ProteinModel": "trained",
        "Sources": "data.settings",
        "SplitSettings": "data.settings",
        "SpreadOptions": "generation.spread",
        "TimeBlocks": "data.settings",
        "fit": "fitting",
        "load": "trained",
        "pl": "",
        "read": "trained",
        "write": "trained",
    },
)
