"""A trained model on embeddings: layouts, the gate's graph, and what it knows of its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files.identity import tensor_hash
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.rng import generator_for
from common.sparse import edge_softmax
from spatial_ipa.confidence.calibration import calibrate_slides
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.layout.frame_regression import refined
from spatial_ipa.layout.outline import towards_outline
from spatial_ipa.layout.placement import Placement
from spatial_ipa.layout.stitched import place_stitched
from spatial_ipa.layout.whole import place_whole
from spatial_ipa.model.gate import EdgeGate
from spatial_ipa.model.minisets import build_miniset, draw_members
from spatial_ipa.model.pair import Network
from spatial_ipa.model.points import IPAPointsModel
from spatial_ipa.model.trace import Trace, trace_network
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.options import InferenceMode

POINTS_FRAME_WEIGHT = 0.5
"""Weight of the regression beside a layout that started at it.  Over weights of 0, 1/4, 1/2 on
her2st A1 Spearman rises by 0.006 and E_geo falls by 0.013; over 0, 1/2, 1 on seqfish both rise, by
0.003 and 0.011."""


@dataclass(frozen=True, eq=False)
class EmbeddedPlacer:
    """Gate, network and context of a trained model, on embeddings.

    Attributes:
        network: from embeddings and a graph to coordinates.
        gate: weighs the edges of the candidate graph; None where it was trained without.
        context: everything else that placing needs.
    """

    network: Network
    gate: EdgeGate | None
    context: PlacementContext

    def __post_init__(self) -> None:
        for module in (self.network, self.gate):
            if module is not None:
                module.eval()

    @property
    def device(self) -> torch.device:
        """Where the cells are placed."""
        return next(self.network.parameters()).device

    @property
    def encoder(self) -> FrozenEncoder:
        """What turns expression into embeddings.

        Raises:
            ValueError: if the model was trained on embeddings from elsewhere.
        """
        if self.context.encoder is None:
            raise UserError(
                "the checkpoint holds no encoder, so expression cannot be embedded; train with "
                "spatial_ipa.SlideDataModule"
            )
        return self.context.encoder

    def weights_hash(self) -> str:
        """SHA-256 of the parameters of gate and network, under their names in a checkpoint."""
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        if self.gate is not None:
            tensors |= {f"gate.{name}": value for name, value in self.gate.state_dict().items()}
        return tensor_hash(tensors)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of gate and network, in place, under their names in a checkpoint."""
        for prefix, module in (("model.", self.network), ("gate.", self.gate)):
            if module is not None:
                own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                module.load_state_dict(own)

    def layout(
        self, h: Tensor, inference: InferenceMode = "auto", num_draws: int = 16, seed: int = 0
    ) -> Placement:
        """Coordinates of cells from their embeddings (n, d).

        See :mod:`spatial_ipa.layout.placement`; then, unless it is switched off,
        :mod:`spatial_ipa.layout.frame_regression`.
        """

        context, z = self.context, self._regression(h, seed)
        start = None
        if z is not None and isinstance(self.network, IPAPointsModel):
            start = torch.from_numpy(z).to(h)

        def place_graph(
            h: Tensor, cells: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int, noise: Tensor
        ) -> Tensor:
            gate = None if self.gate is None else self.gate(h, edges)
            first = None if start is None else start[cells]
            layout: Tensor = self.network(h, edges, gate, graph, num_graphs, noise, first).x
            return layout

        k, noise_h = context.num_candidates, context.noise_h
        mode = context.mode_for(len(h)) if inference == "auto" else inference
        if mode == "whole":
            placement = place_whole(place_graph, h, k, num_draws, seed, noise_h)
        else:
            placement = place_stitched(place_graph, h, k, num_draws, seed, noise_h, context.size)
        if isinstance(self.network, IPAPointsModel):
            # It starts at the regression, which has the proportions of the training slides already.
            weight = POINTS_FRAME_WEIGHT
        else:
            weight = 1.0
            if context.aspect is not None:  # before the regression: of both orders the lower E_geo
                placement = towards_outline(placement, context.aspect)
        return placement if z is None else refined(placement, z, weight)

    def _regression(self, h: Tensor, seed: int) -> np.ndarray | None:
        """(n, 2) positions of cells (n, d) in the common frame; None without one."""
        frame = self.context.frame
        return None if frame is None else frame.averaged(h.cpu().numpy(), seed)

    def hypotheses(
        self, placement: Placement, h: Tensor, count: int, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Several weighted positions of each cell of a layout.

        Args:
            placement: of n cells, by :meth:`layout`.
            h: (n, d) their embeddings.
            count: M, positions per cell; at least two.
            seed: of the layout.

        Returns:
            (n, M, 2) and (n, M), as :meth:`FrameRegression.hypotheses`.

        Raises:
            ValueError: if the model cannot give so many.
        """
        self.context.charts_for(count)
        assert self.context.frame is not None, "checked by charts_for"
        return self.context.frame.hypotheses(placement, h.cpu().numpy(), count, seed)

    @torch.no_grad()
    def gate_graph(
        self, h: Tensor, approximate_above: int | None = None
    ) -> tuple[Tensor, EdgeList]:
        """Row-softmax (E,) of the gate on the candidate graph; uniform without gate, and the mean
        over heads of one with a logit per head.

        Args:
            h: (n, d) embeddings.
            approximate_above: cells above which the candidates are searched approximately; never
                when None.
        """
        edges = knn_edges(h, self.context.num_candidates, approximate_above=approximate_above)
        logit = h.new_zeros(edges.num_edges) if self.gate is None else self.gate(h, edges)
        weight = edge_softmax(logit, edges)
        return weight if weight.dim() == 1 else weight.mean(1), edges

    def trace_embedded(self, name: str, h: Tensor, xy: Tensor, seed: int = 0) -> Trace:
        """What the network does with cells of known positions (:mod:`spatial_ipa.model.trace`).

        Args:
            name: of the slide.
            h: (n, d) embeddings.
            xy: (n, 2) true positions, in any unit and pose; the network does not see them.
            seed: of the subset: of a slide larger than the minisets of the training the trace is of
                a random subset of their largest size, which is what stitched placement passes on.

        Raises:
            ValueError: on fewer than 8 cells, or positions that coincide.
        """
        generator = generator_for(seed)
        rows = draw_members(len(h), self.context.size, self.context.size, generator)
        chosen = h[rows.to(h.device)].to(self.device), xy[rows].to(self.device)
        batch = build_miniset(*chosen, self.context.num_candidates, generator)
        z = self._regression(h, seed)
        if z is not None:
            start = torch.from_numpy(z).to(h)[rows.to(h.device)]
            batch = replace(batch, start=start.to(self.device))
        return trace_network(name, self.network, self.gate, batch, rows.numpy())

    def with_reference(self, train: Sequence[EmbeddedSlide]) -> Self:
        """The same with a sample of the training cells, by which new cells are judged."""
        reference = ReferenceCells.sample(train)
        return replace(self, context=replace(self.context, reference=reference, calibration=None))

    def calibrated(
        self, train: Sequence[EmbeddedSlide], val: Sequence[EmbeddedSlide], num_draws: int = 16
    ) -> Self:
        """The same with error radii from validation slides, and the training cells they need.

        See :mod:`spatial_ipa.confidence.calibration`.

        Args:
            train: slides of the training.
            val: slides with coordinates that were not trained on.
            num_draws: draws per placement.

        Raises:
            ValueError: on too few cells, or a slide in both lists.
        """

        def place(h: np.ndarray) -> Placement:
            return self.layout(torch.from_numpy(np.array(h)).to(self.device), "auto", num_draws)

        reference, calibration = calibrate_slides(train, val, place, num_draws)
        context = replace(self.context, reference=reference, calibration=calibration)
        return replace(self, context=context)
