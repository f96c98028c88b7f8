"""Positions of cells from their expression, learned from tissue slides.

    model = spatial_ipa.fit("my/A*.h5ad", validation="my/B.h5ad", out="runs/mine")
    model = spatial_ipa.load("runs/mine/spatial_ipa.ckpt")
    adata = model.place(adata)
    spatial_ipa.pl.layout(adata)

Names are imported when they are first used: importing the package itself is fast.
"""

from common.public import lazy_names

__all__ = [
    "CellDataModule",
    "EncoderDataModule",
    "EncoderModule",
    "PlacementOptions",
    "Placer",
    "Slide",
    "SlideDataModule",
    "SlideKeys",
    "SpatialIPAModule",
    "fit",
    "load",
    "pl",
    "read_slide",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CellDataModule": "placing.command",
        "EncoderDataModule": "encoder.datamodule",
        "EncoderModule": "encoder.module",
        "PlacementOptions": "placing.options",
        "Placer": "placing.placer",
        "Slide": "data.slide",
        "SlideDataModule": "training.datamodule",
        "SlideKeys": "data.keys",
        "SpatialIPAModule": "training.module",
        "fit": "pipeline.fit",
        "load": "placing.load",
        "pl": "",
        "read_slide": "data.read",
    },
)
