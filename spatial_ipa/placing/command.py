"""`lightning predict`: an h5ad without coordinates in, the same h5ad with coordinates out.

Written to the output:

    obsm["X_spatial_ipa"]             (n, 2) coordinates: mean 0, RMS radius 1, arbitrary pose
    obs["spatial_ipa_uncertainty"]    RMS spread of the cell over draws, in RMS radii; of noise in
                                      the model alone, regression in the common frame has none
    obs["spatial_ipa_empty"]          cells without counts of the encoder's genes: not placed, all
                                      else about them is NaN
    obs["spatial_ipa_radius"]         error radius in the unit of the coordinates
                                      (:mod:`spatial_ipa.confidence.calibration`)
    obs["spatial_ipa_abstain"]        the radius is too large for the position to mean anything
    obs["spatial_ipa_ambiguity"]      spread of the training cells of like expression, 0 to 1, and
    obs["spatial_ipa_multimodal"]     share of training slides where they form two groups far apart
                                      (:mod:`spatial_ipa.confidence.reference_cells`)
    obsp["spatial_ipa_gate"]          row-softmax of the gate on the candidate graph, CSR
    uns["spatial_ipa"]                provenance: versions, hashes, settings, missing genes; under
                                      "calibration" what the radii rest on, or why there are none
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.errors import ExistingFile, MissingFile, MissingPackage, UserError
from common.graph.edges import EdgeList
from common.report.resources import Stopwatch
from spatial_ipa.data.h5ad import earlier_prediction, write_prediction
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.frozen import EmbeddingKind

InferenceMode = Literal["auto", "whole", "stitched"]


@dataclass(frozen=True)
class PlacementOptions:
    """How cells are placed.

    Attributes:
        inference: ``whole``: one graph over all cells.  ``stitched``: many minisets of the trained
            size, superposed.  ``auto``: whole up to the trained size, stitched above.
        num_draws: layouts averaged; their spread is the uncertainty.
        write_graph: also return the gate graph over all cells.
        approximate_above: cells above which the candidates of that graph come from an approximate
            search with a recall of 0.95 (needs ``faiss-cpu``); the layout never does.
        seed: of the draws.
        coverage: share of cells whose error radius is to hold their true position.
        abstain_above: radius, in the unit of the coordinates written, above which a cell is
            abstained from; null for the median distance between two random cells of the validation
            slides, in that unit.
    """

    inference: InferenceMode = "auto"
    num_draws: int = 16
    write_graph: bool = True
    approximate_above: int = 100_000
    seed: int = 0
    coverage: float = 0.9
    abstain_above: float | None = None

    def __post_init__(self) -> None:
        if self.num_draws < 2:
            raise UserError(f"num_draws must be at least 2 for a spread, got {self.num_draws}")
        if self.approximate_above < 1:
            raise UserError(f"approximate_above must be positive, got {self.approximate_above}")
        if not 0 < self.coverage < 1:
            raise UserError(f"coverage must lie in (0, 1), got {self.coverage}")
        if self.abstain_above is not None and not self.abstain_above > 0:
            raise UserError(f"abstain_above must be positive or null, got {self.abstain_above}")


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


@dataclass(frozen=True)
class CellPrediction:
    """Attributes: xy (n, 2); spread (n,); empty (n,) bool, the cells that were not placed and have
    NaN; gate graph (n, n) CSR or None; settings used; further columns (n,) of ``obs`` without their
    prefix."""

    xy: np.ndarray
    spread: np.ndarray
    empty: np.ndarray
    graph: sp.csr_matrix | None
    settings: dict[str, Any]
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def over(self, placed: np.ndarray) -> CellPrediction:
        """The prediction of ``placed.sum()`` cells as one of all n, of which these are ``placed``.

        The others have NaN, are abstained from and have no neighbours.
        """
        if placed.all():
            return self
        rows, n = np.flatnonzero(placed), len(placed)

        def filled(values: np.ndarray) -> np.ndarray:
            missing = True if values.dtype == bool else np.nan
            every = np.full((n, *values.shape[1:]), missing, values.dtype)
            every[placed] = values
            return every

        graph = self.graph
        if graph is not None:
            degree = np.zeros(n, graph.indptr.dtype)
            degree[placed] = np.diff(graph.indptr)
            ptr = np.concatenate([[0], degree.cumsum()])
            graph = sp.csr_matrix((graph.data, rows[graph.indices], ptr), shape=(n, n))
        return CellPrediction(
            filled(self.xy),
            filled(self.spread),
            filled(self.empty),
            graph,
            self.settings,
            {name: filled(column) for name, column in self.columns.items()},
        )


def graph_matrix(weight: Tensor, edges: EdgeList) -> sp.csr_matrix:
    """(n, n) CSR whose row i holds the weights (E,) of the in-edges of node i."""
    n = edges.num_nodes
    return sp.csr_matrix(
        (weight.cpu().numpy(), edges.src.cpu().numpy(), edges.ptr.cpu().numpy()), shape=(n, n)
    )


class CellDataModule(pl.LightningDataModule):
    """One h5ad file to predict coordinates for.

    Args:
        input: file with expression; coordinates in it are not looked at.
        output: file to write.
        kind: ``scrna`` for dissociated cells, ``st`` for a slide.
        placement: how they are placed.
        layer: layer of the counts; ``X`` when null, ``raw.X`` for ``AnnData.raw``.
        gene_key: column of ``var`` with the gene names; its index when null.
        overwrite: replace an existing output, and an earlier prediction in the copy.
    """

    def __init__(
        self,
        input: str,
        output: str,
        kind: EmbeddingKind = "scrna",
        placement: PlacementOptions = PlacementOptions(),
        layer: str | None = None,
        gene_key: str | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.input, self.output = Path(input), Path(output)
        self.kind: EmbeddingKind = kind
        self.placement, self.overwrite = placement, overwrite
        self.layer, self.gene_key = layer, gene_key
        # Refuse before any model is loaded.
        if self.output.exists() and not overwrite:
            raise ExistingFile(
                f"{self.output} exists; choose another data.output or set data.overwrite"
            )
        if not self.output.parent.is_dir():
            raise MissingFile(f"folder {self.output.parent} of data.output does not exist")
        if self.output.resolve() == self.input.resolve():
            raise UserError(f"data.output is the input file {self.input}; choose another name")

    def setup(self, stage: str) -> None:
        if stage != "predict":
            raise UserError("CellDataModule only serves `lightning predict`")
        self.clock = Stopwatch()
        with self.clock.stage("read"):
            self.slide = read_slide(
                self.input,
                require_spatial=False,
                layer=self.layer,
                gene_key=self.gene_key,
                min_spots=2,
            )
        if not self.overwrite and (there := earlier_prediction(self.input)):
            raise UserError(
                f"{self.input} holds an earlier prediction ({', '.join(there)}); set "
                "data.overwrite to replace it in the copy"
            )
        options = self.placement
        large = options.write_graph and len(self.slide) > options.approximate_above
        if large and find_spec("faiss") is None:
            raise MissingPackage(
                f"{self.input}: the gate graph of {len(self.slide)} cells needs faiss: pip install "
                "'edgewise[approximate]', or set data.placement.write_graph=false, or "
                "data.placement.approximate_above higher for a slow exact search"
            )

    def predict_dataloader(self) -> DataLoader[Any]:
        request = PredictionRequest(
            self.slide, self.kind, self.placement, self.input, self.output, self.overwrite,
            self.clock,
        )  # fmt: skip
        return DataLoader([request], batch_size=None)  # type: ignore[arg-type]


def write_prediction_file(
    prediction: CellPrediction, path_in: Path, path_out: Path, overwrite: bool
) -> Path:
    """Write one prediction; see the module docstring for the fields."""
    return write_prediction(
        path_in,
        path_out,
        obsm={"X_spatial_ipa": prediction.xy},
        obs={
            "spatial_ipa_uncertainty": prediction.spread,
            "spatial_ipa_empty": prediction.empty,
            **{f"spatial_ipa_{name}": column for name, column in prediction.columns.items()},
        },
        obsp=None if prediction.graph is None else {"spatial_ipa_gate": prediction.graph},
        uns={"spatial_ipa": prediction.settings},
        overwrite=overwrite,
    )


def provenance(**settings: Any) -> dict[str, Any]:
    """Versions and settings, as anndata can store them."""
    versions = {name: version(name) for name in ("edgewise", "torch", "lightning")}
    return {"versions": versions, **settings}


@torch.no_grad()
def as_numpy(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy()
    return array
