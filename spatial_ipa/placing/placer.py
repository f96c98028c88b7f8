"""A trained model in use: expression in, coordinates out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import overload

import numpy as np
import torch
from anndata import AnnData
from lightning.pytorch.utilities import rank_zero_warn
from pandas import DataFrame

from common.errors import UserError
from common.prediction import provenance
from common.report.resources import Stopwatch
from spatial_ipa.data.anndata_file import read_anndata
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import Source, as_slides
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.values import refuse_mixed_values
from spatial_ipa.encoder.frozen import EmbeddingKind
from spatial_ipa.evaluation.comparison import score_slides
from spatial_ipa.geometry.neighbours import FULL_SIZE
from spatial_ipa.model.trace import Trace
from spatial_ipa.placing.embedded import EmbeddedPlacer
from spatial_ipa.placing.judge import check_options, judge_cells
from spatial_ipa.placing.options import PlacementOptions
from spatial_ipa.placing.result import CellPrediction, graph_matrix


class Placer(EmbeddedPlacer):
    """A trained model; see :class:`~spatial_ipa.placing.embedded.EmbeddedPlacer` for its parts."""

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
            hypotheses, about = None, {}
            if (count := options.num_hypotheses) > 1:
                positions, weight = self.hypotheses(placement, h, count, options.seed)
                hypotheses = positions.astype(np.float32)
                charts = context.charts_for(count)
                about = {"charts": {"regions": 1} if charts is None else charts.summary()}
        with clock.stage("judge"):
            columns, judged = judge_cells(context, h.cpu().numpy(), placement, options)
            if count > 1:
                columns |= {f"weight_{m + 1}": weight[:, m] for m in range(count)}
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
                reading="; ".join(slide.notes),
                genes=len(encoder.panel),
                genes_missing=len(set(encoder.panel).difference(slide.genes)),
                common_frame=context.frame is not None,
                calibration=judged,
                **about,
                **used,
            ),
            columns,
            hypotheses,
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
        refuse_sections(keys)
        if isinstance(source, Slide):
            return self.predict(source, kind, options)
        given = isinstance(source, AnnData)
        adata: AnnData = source if given else read_anndata(Path(source))
        name = "adata" if given else Path(source).stem
        slide = Slide.from_anndata(adata, keys, name=name, require_spatial=False, min_spots=2)
        prediction = self.predict(slide, kind, options)
        placed = adata.copy() if copy and given else adata
        prediction.write_into(placed)
        return placed

    def evaluate(
        self,
        slides: Source | Sequence[Source],
        *,
        train: Source | Sequence[Source] = (),
        keys: SlideKeys = SlideKeys(),
        num_draws: int = 16,
        max_scored: int = FULL_SIZE,
        seed: int = 0,
    ) -> DataFrame:
        """Score the model on slides with coordinates that it was not trained on.

        Args:
            slides: AnnData objects, slides, files, folders or patterns; one or several.
            train: the same of its training slides; then regression of coordinates and a random
                layout are scored beside it.
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

        scored, learnt = as_slides(slides, keys, "slide"), as_slides(train, keys, "train")
        refuse_mixed_values([*scored, *learnt])
        rows = score_slides(layout_of, self.encoder.panel, scored, learnt, max_scored, seed)
        return DataFrame(rows)

    def trace(
        self, slide: AnnData | Slide | str | Path, *, keys: SlideKeys = SlideKeys(), seed: int = 0
    ) -> Trace:
        """What the network does with a slide of known positions, recycle by recycle.

        For :func:`spatial_ipa.pl.progression` and :func:`spatial_ipa.pl.focus`, and for the health
        checks.  It is one pass without noise: see :mod:`spatial_ipa.model.trace`.

        Args:
            slide: spots with coordinates; of a large one a random subset is looked at.
            keys: where in it matrix, gene names and coordinates are.
            seed: of the subset.

        Raises:
            ValueError: if it is not one slide with coordinates.

        Example:
            >>> import spatial_ipa
            >>> trace = spatial_ipa.load(example_checkpoint).trace(example_adata)
            >>> trace.weights.shape[1], "head_recall30/3" in trace.health
            (4, True)
        """
        found = as_slides([slide], keys, "slide")
        if len(found) != 1:
            raise UserError(f"trace takes one slide, got {len(found)}; trace each by itself")
        (only,) = found
        if only.xy is None:
            raise UserError(f"{only.name} has no coordinates to show attention on")
        h = torch.from_numpy(np.array(self.encoder.embed(only, "st")))
        return self.trace_embedded(only.name, h, torch.tensor(only.xy), seed)


def refuse_sections(keys: SlideKeys) -> None:
    """Refuse to split what is placed.

    Raises:
        ValueError: if ``keys`` names a column to split by.
    """
    if keys.section_columns:
        raise UserError(
            "section_key splits slides that are trained on or scored; the cells of a file are "
            "placed as one layout: write one file per section to place them apart"
        )
