"""Placed cells, and the fields that say so in a file.

obsm["X_spatial_ipa"]             (n, 2) coordinates: mean 0, RMS radius 1, arbitrary pose
obsm["X_spatial_ipa_1"], ...      (n, 2) each, if several hypotheses were asked for: positions of
                                  the cell by falling weight, in pose and unit of the former
                                  (:mod:`spatial_ipa.layout.charts`);
                                  obs["spatial_ipa_weight_1"], ... their weights, which sum to 1
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
obsp["spatial_ipa_connectivities"]  row-softmax of the gate on the candidate graph, CSR, not
                                  symmetric, and obsp["spatial_ipa_distances"], (n, n) CSR, the
                                  lengths of its edges in the layout;
                                  uns["spatial_ipa_neighbors"] names both for scanpy
uns["spatial_ipa"]                provenance: versions, hashes, settings, missing genes; under
                                  "reading" what was left out, changed or decided when the cells
                                  were read, under "calibration" what the radii rest on, or why
                                  there are none
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from torch import Tensor

from common.graph.edges import EdgeList
from spatial_ipa.data.anndata_file import fields_of_prediction, write_prediction

GRAPH = "spatial_ipa_connectivities"
"""Name of the graph in ``obsp``."""

DISTANCES = "spatial_ipa_distances"
"""Name of the lengths of its edges in ``obsp``."""


@dataclass(frozen=True)
class CellPrediction:
    """n cells of one file, placed.

    Attributes:
        xy: (n, 2) coordinates.
        spread: (n,) over draws.
        empty: (n,) bool, the cells that were not placed and have NaN.
        graph: (n, n) CSR of the gate; None if it was not asked for.
        settings: provenance.
        columns: (n,) further columns of ``obs``, by name without prefix.
        hypotheses: (n, M, 2) positions of the cells by falling weight; None if not asked for.
    """

    xy: np.ndarray
    spread: np.ndarray
    empty: np.ndarray
    graph: sp.csr_matrix | None
    settings: dict[str, Any]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    hypotheses: np.ndarray | None = None

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
            None if self.hypotheses is None else filled(self.hypotheses),
        )

    def fields(self) -> dict[str, dict[str, Any]]:
        """What is written, by part of an AnnData object and name; see the module docstring."""
        return {
            "obsm": {"X_spatial_ipa": self.xy} | self._positions(),
            "obs": self.obs(),
            "obsp": {} if self.graph is None else {GRAPH: self.graph, DISTANCES: self._lengths()},
            "uns": {"spatial_ipa": self.settings} | self._neighbours(),
        }

    def obs(self) -> dict[str, np.ndarray]:
        """The columns (n,) of ``obs``, by name; see the module docstring."""
        return {
            "spatial_ipa_uncertainty": self.spread,
            "spatial_ipa_empty": self.empty,
            **{f"spatial_ipa_{name}": column for name, column in self.columns.items()},
        }

    def _positions(self) -> dict[str, np.ndarray]:
        """(n, 2) of each hypothesis."""
        if self.hypotheses is None:
            return {}
        several = self.hypotheses.swapaxes(0, 1)
        return {f"X_spatial_ipa_{m}": np.ascontiguousarray(x) for m, x in enumerate(several, 1)}

    def _neighbours(self) -> dict[str, Any]:
        """How scanpy and squidpy find the graph, with ``neighbors_key="spatial_ipa_neighbors"``.

        Both keys are read by ``scanpy.Neighbors``.
        """
        if self.graph is None:
            return {}
        params = {"method": "spatial_ipa", "n_neighbors": self.settings["num_candidates"]}
        keys = {"connectivities_key": GRAPH, "distances_key": DISTANCES}
        return {"spatial_ipa_neighbors": {**keys, "params": params}}

    def _lengths(self) -> sp.csr_matrix:
        """(n, n) CSR: of each edge of the graph its length in the layout."""
        assert self.graph is not None
        ptr, columns = self.graph.indptr, self.graph.indices
        degree = np.diff(ptr)
        # One coordinate at a time: (E, 2) arrays are what would not fit for 10^6 cells.
        dx, dy = (np.repeat(axis, degree) - axis[columns] for axis in self.xy.T)
        return sp.csr_matrix((np.hypot(dx, dy), columns, ptr), shape=self.graph.shape)

    def write_into(self, adata: AnnData) -> None:
        """Put :meth:`fields` into an AnnData object, in place of those of an earlier prediction."""
        for part in (adata.obsm, adata.obsp, adata.uns, adata.obs):
            for name in fields_of_prediction(list(part)):
                del part[name]
        for part, values in self.fields().items():
            for name, value in values.items():
                getattr(adata, part)[name] = value

    def write(self, path_in: Path, path_out: Path, overwrite: bool) -> Path:
        """Copy the file of the cells and add :meth:`fields`.

        Raises:
            ValueError: as :func:`spatial_ipa.data.anndata_file.write_prediction`.
        """
        return write_prediction(path_in, path_out, **self.fields(), overwrite=overwrite)


def graph_matrix(weight: Tensor, edges: EdgeList) -> sp.csr_matrix:
    """(n, n) CSR whose row i holds the weights (E,) of the in-edges of node i."""
    n = edges.num_nodes
    return sp.csr_matrix(
        (weight.cpu().numpy(), edges.src.cpu().numpy(), edges.ptr.cpu().numpy()), shape=(n, n)
    )
