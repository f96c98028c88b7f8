"""A trained model in use: expression or embeddings in, coordinates out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from anndata import AnnData
from lightning.pytorch.utilities import rank_zero_warn
from pandas import DataFrame
from torch import Tensor

from common.errors import UserError
from common.files.identity import tensor_hash
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.prediction import provenance
from common.report.resources import Stopwatch
from common.sparse import edge_softmax
from spatial_ipa.confidence.calibration import calibrate_slides
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.h5ad import read_h5ad
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import as_slide
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.encoder.frozen import EmbeddingKind, FrozenEncoder
from spatial_ipa.evaluation.comparison import score_slides
from spatial_ipa.geometry.neighbours import FULL_SIZE
from spatial_ipa.layout.placement import Placement, place_stitched, place_whole, towards_outline
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.network import IPALiteModel
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.judge import check_options, judge_cells
from spatial_ipa.placing.options import InferenceMode, PlacementOptions
from spatial_ipa.placing.result import CellPrediction, graph_matrix


@dataclass(frozen=True, eq=False)
class Placer:
    """Gate, network and context of a trained model.

    Attributes:
        network: from embeddings and a graph to coordinates.
        gate: weighs the edges of the candidate graph; None where it was trained without.
        context: everything else that placing needs.
    """

    network: IPALiteModel
    gate: EdgeGateSoft | None
    context: PlacementContext

    def __post_init__(self) -> None:
        for module in (self.network, self.gate):
            if module is not None:
                module.eval()

    @property
    def device(self) -> torch.device:
        """Where the cells are placed."""
        return self.network.to_start[0].weight.device  # type: ignore[union-attr, return-value]

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

        def place_graph(
            h: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int, noise: Tensor
        ) -> Tensor:
            gate = None if self.gate is None else self.gate(h, edges)
            layout: Tensor = self.network(h, edges, gate, graph, num_graphs, noise).x
            return layout

        context = self.context
        k, noise_h = context.num_candidates, context.noise_h
        mode = context.mode_for(len(h)) if inference == "auto" else inference
        if mode == "whole":
            placement = place_whole(place_graph, h, k, num_draws, seed, noise_h)
        else:
            placement = place_stitched(place_graph, h, k, num_draws, seed, noise_h, context.size)
        if context.aspect is not None:  # before the regression: of both orders the lower E_geo
            placement = towards_outline(placement, context.aspect)
        if context.frame is None:
            return placement
        return context.frame.refine(placement, h.cpu().numpy(), seed)

    @torch.no_grad()
    def gate_graph(
        self, h: Tensor, approximate_above: int | None = None
    ) -> tuple[Tensor, EdgeList]:
        """Row-softmax (E,) of the gate on the candidate graph; uniform without gate.

        Args:
            h: (n, d) embeddings.
            approximate_above: cells above which the candidates are searched approximately; never
                when None.
        """
        edges = knn_edges(h, self.context.num_candidates, approximate_above=approximate_above)
        logit = h.new_zeros(edges.num_edges) if self.gate is None else self.gate(h, edges)
        return edge_softmax(logit, edges), edges

    def predict(
        self,
        slide: Slide,
        kind: EmbeddingKind = "scrna",
        options: PlacementOptions = PlacementOptions(),
        clock: Stopwatch | None = None,
    ) -> CellPrediction:
        """Embed and place the cells of one file, with everything that is written about them.

        Args:
            slide: expression; coordinates are not looked at.
            kind: ``scrna`` for dissociated cells, ``st`` for spots of a slide.
            options: how they are placed.
            clock: is given the seconds of the stages embed, place, judge and graph.

        Raises:
            ValueError: if fewer than 2 cells have counts on the encoder's genes, or on what
                :func:`~spatial_ipa.placing.judge.check_options` refuses.
        """
        encoder, context = self.encoder, self.context
        clock = Stopwatch() if clock is None else clock
        adapted = kind == "scrna" and encoder.adapter is not None
        if kind == "scrna" and not adapted:
            rank_zero_warn(
                "the encoder was trained without dissociated cells (data.init_args.scrna), or not "
                "beyond its start: these are embedded as if they were spots, and nothing aligns "
                "them with the slides"
            )
        with clock.stage("embed"):
            placed = encoder.has_counts(slide)
            if placed.sum() < 2:
                raise UserError(
                    f"{slide.name}: {placed.sum()} of {len(slide)} cells have counts on the "
                    f"encoder's {len(encoder.panel)} genes; at least 2 are needed"
                )
            h = torch.from_numpy(np.array(encoder.embed(slide, kind))[placed]).to(self.device)
        check_options(context, h.cpu().numpy(), options)
        with clock.stage("place"):
            placement = self.layout(h, options.inference, options.num_draws, options.seed)
        with clock.stage("judge"):
            columns, judged = judge_cells(context, h.cpu().numpy(), placement, options)
        graph = None
        if options.write_graph:
            with clock.stage("graph"):
                graph = graph_matrix(*self.gate_graph(h, options.approximate_above))
        used = {name: value for name, value in asdict(options).items() if value is not None}
        prediction = CellPrediction(
            placement.xy.cpu().numpy(),
            placement.spread.cpu().numpy(),
            np.zeros(len(h), dtype=bool),
            graph,
            provenance(
                encoder=encoder.weights_hash,
                model=self.weights_hash(),
                input=slide.expression_hash,
                seen_by_encoder=encoder.has_seen(slide),
                kind=kind,
                adapter=adapted,
                num_candidates=context.num_candidates,
                genes=len(encoder.panel),
                genes_missing=len(set(encoder.panel).difference(slide.genes)),
                common_frame=context.frame is not None,
                calibration=judged,
                **used,
            ),
            columns,
        )
        return prediction.over(placed)

    @overload
    def place(
        self,
        source: Slide,
        kind: EmbeddingKind = ...,
        options: PlacementOptions | None = ...,
    ) -> CellPrediction: ...

    @overload
    def place(
        self,
        source: AnnData | str | Path,
        kind: EmbeddingKind = ...,
        options: PlacementOptions | None = ...,
        *,
        keys: SlideKeys = ...,
        copy: bool = ...,
    ) -> AnnData: ...

    def place(
        self,
        source: AnnData | Slide | str | Path,
        kind: EmbeddingKind = "scrna",
        options: PlacementOptions | None = None,
        *,
        keys: SlideKeys = SlideKeys(),
        copy: bool = True,
    ) -> AnnData | CellPrediction:
        """Give cells coordinates.

        Args:
            source: cells with expression: AnnData, the path of one, or a slide.
            kind: ``scrna`` for dissociated cells, ``st`` for spots of a slide.
            options: how they are placed.
            keys: where in the AnnData matrix and gene names are.
            copy: leave the AnnData given as it is; False writes into it.

        Returns:
            AnnData with the fields of :mod:`spatial_ipa.placing.result`, which scanpy and squidpy
            take as they are; those of an earlier placement are replaced.  Of a slide, the
            prediction itself.

        Raises:
            ValueError: if too few cells have counts on the encoder's genes, or ``source`` cannot be
                used; the message says why.

        Example:
            >>> import spatial_ipa
            >>> model = spatial_ipa.load(example_checkpoint)
            >>> options = spatial_ipa.PlacementOptions(num_draws=2)
            >>> placed = model.place(example_adata, kind="st", options=options)
            >>> placed.obsm["X_spatial_ipa"].shape
            (80, 2)
            >>> "X_spatial_ipa" in example_adata.obsm
            False
        """
        options = PlacementOptions() if options is None else options
        if isinstance(source, Slide):
            return self.predict(source, kind, options)
        adata, name = (
            (source, "adata")
            if isinstance(source, AnnData)
            else (read_h5ad(source), Path(source).stem)
        )
        slide = Slide.from_anndata(adata, keys, name=name, require_spatial=False, min_spots=2)
        prediction = self.predict(slide, kind, options)
        placed = adata.copy() if copy and adata is source else adata
        prediction.write_into(placed)
        return placed

    def evaluate(
        self,
        slides: Sequence[AnnData | Slide | str | Path],
        *,
        train: Sequence[AnnData | Slide | str | Path] = (),
        keys: SlideKeys = SlideKeys(),
        num_draws: int = 16,
        max_scored: int = FULL_SIZE,
        seed: int = 0,
    ) -> DataFrame:
        """Score the model on slides with coordinates that it was not trained on.

        Args:
            slides: AnnData, paths or slides.
            train: its training slides; then regression of coordinates and a random layout are
                scored beside it.
            keys: where in the slides matrix, gene names and coordinates are.
            num_draws: layouts averaged.
            max_scored: larger slides are scored on so many random spots.
            seed: of placements and samples.

        Returns:
            A row per slide and method, with the columns of
            :data:`spatial_ipa.evaluation.scorer.SCORES`.

        Example:
            >>> import spatial_ipa
            >>> model = spatial_ipa.load(example_checkpoint)
            >>> scores = model.evaluate(example_files[3:], num_draws=2)
            >>> list(scores.columns[:4])
            ['slide', 'method', 'e_geo', 'e_geo_minisets']
        """

        def layout_of(slide: Slide) -> np.ndarray:
            h = torch.from_numpy(np.array(self.encoder.embed(slide, "st"))).to(self.device)
            return self.layout(h, "auto", num_draws, seed).xy.cpu().numpy()

        rows = score_slides(
            layout_of,
            self.encoder.panel,
            [as_slide(source, keys, f"slide_{i}") for i, source in enumerate(slides)],
            [as_slide(source, keys, f"train_{i}") for i, source in enumerate(train)],
            max_scored,
            seed,
        )
        return DataFrame(rows)

    def with_reference(self, train: Sequence[EmbeddedSlide]) -> Placer:
        """The same with a sample of the training cells, by which new cells are judged."""
        reference = ReferenceCells.sample(train)
        return replace(self, context=replace(self.context, reference=reference, calibration=None))

    def calibrated(
        self, train: Sequence[EmbeddedSlide], val: Sequence[EmbeddedSlide], num_draws: int = 16
    ) -> Placer:
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
