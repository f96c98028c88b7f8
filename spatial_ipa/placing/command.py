"""``lightning predict``: an h5ad without coordinates in, the same h5ad with coordinates out.

The fields written are listed in :mod:`spatial_ipa.placing.result`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common.errors import MissingPackage, UserError
from common.files.outputs import check_name, prepare_output
from common.prediction import RequestDataModule
from common.report.resources import Stopwatch
from spatial_ipa.data.anndata_file import earlier_prediction, require_copyable
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.frozen import EmbeddingKind
from spatial_ipa.placing.options import PlacementOptions
from spatial_ipa.placing.placer import Placer, refuse_sections


@dataclass(frozen=True)
class PredictionRequest:
    """One file to place: its expression, what kind of cells they are, how, and where to."""

    slide: Slide
    kind: EmbeddingKind
    options: PlacementOptions
    path_in: Path
    path_out: Path
    overwrite: bool
    clock: Stopwatch

    def run(self, placer: Placer, *, write: bool) -> dict[str, str]:
        """Place the cells and, with ``write``, write the result and print the seconds."""
        prediction = placer.predict(self.slide, self.kind, self.options, self.clock)
        if write:
            with self.clock.stage("write"):
                prediction.write(self.path_in, self.path_out, self.overwrite)
            print(f"{self.clock.table()}\nwrote {self.path_out}", flush=True)
        return {"output": str(self.path_out)}


class CellDataModule(RequestDataModule):
    """One h5ad file to predict coordinates for.

    Args:
        input: file with expression; coordinates in it are not looked at.
        output: file to write.
        kind: ``scrna`` for dissociated cells, ``st`` for a slide.
        placement: how they are placed.
        keys: where in the file matrix and gene names are.
        overwrite: replace an existing output, and an earlier prediction in the copy.

    Example:
        >>> import spatial_ipa
        >>> data = spatial_ipa.CellDataModule("cells.h5ad", "placed.h5ad", kind="st")
        >>> data.keys.layer is None
        True
    """

    def __init__(
        self,
        input: str,
        output: str,
        kind: EmbeddingKind = "scrna",
        placement: PlacementOptions = PlacementOptions(),
        keys: SlideKeys = SlideKeys(),
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.input, self.output = Path(input), Path(output)
        self.kind: EmbeddingKind = kind
        self.placement, self.keys, self.overwrite = placement, keys, overwrite
        # Refuse before any model is loaded.
        refuse_sections(keys)
        if self.output.resolve() == self.input.resolve():
            raise UserError(f"data.output is the input file {self.input}; choose another name")
        check_name(self.output, "data.output", overwrite=overwrite, allow="set data.overwrite")

    def read(self) -> PredictionRequest:
        clock = Stopwatch()
        with clock.stage("read"):
            slide = read_slide(self.input, self.keys, require_spatial=False, min_spots=2)
        require_copyable(self.input)
        prepare_output(self.output, "data.output")
        if not self.overwrite and (there := earlier_prediction(self.input)):
            raise UserError(
                f"{self.input} holds an earlier prediction ({', '.join(there)}); set "
                "data.overwrite to replace it in the copy"
            )
        options = self.placement
        large = options.write_graph and len(slide) > options.approximate_above
        if large and find_spec("faiss") is None:
            raise MissingPackage(
                f"{self.input}: the gate graph of {len(slide)} cells needs faiss: pip install "
                "'edgewise[approximate]', or set data.placement.write_graph=false, or "
                "data.placement.approximate_above higher for a slow exact search"
            )
        return PredictionRequest(
            slide, self.kind, options, self.input, self.output, self.overwrite, clock
        )
