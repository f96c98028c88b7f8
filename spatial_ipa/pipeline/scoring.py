"""Scores, figures and predicted files of the pipeline."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.files.atomic import atomic_path
from common.report.figures import save_figure
from common.report.tables import markdown_table, number
from spatial_ipa.confidence.conformal import radius_check
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import EmbeddingKind
from spatial_ipa.evaluation.comparison import some_rows, trivial_layouts
from spatial_ipa.evaluation.plots.confidence import (
    TISSUE,
    confidence_maps,
    layout_scale,
    radius_map,
)
from spatial_ipa.evaluation.plots.layouts import layout_figure, map_figure
from spatial_ipa.evaluation.scorer import COLUMNS, SlideScorer
from spatial_ipa.layout.placement import Placement
from spatial_ipa.model.trace import Trace
from spatial_ipa.placing.options import InferenceMode, PlacementOptions
from spatial_ipa.placing.placer import Placer
from spatial_ipa.placing.result import CellPrediction


def file_name(slide: Slide) -> str:
    """The name of a slide as part of that of a file."""
    return slide.name.replace("/", "_")


@dataclass
class Scoring:
    """Scores held-out slides and places cells, one after the other.

    Attributes:
        placer: the model.
        folder: where all is written, and embeddings are cached.
        num_draws: layouts averaged.
        max_scored: larger slides are scored on so many random spots.
        seed: of the placements and samples.
        rows: scores so far.
        radii: how error radii held so far, by name.
        traces: what the network did with each held-out slide so far.
    """

    placer: Placer
    folder: Path
    num_draws: int
    max_scored: int
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    radii: dict[str, dict[str, float]] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)

    def evaluate(self, slide: Slide, train: list[Slide]) -> None:
        """Score model and baselines on one held-out slide, and draw its figure."""
        assert slide.xy is not None
        encoder = self.placer.encoder
        scored = some_rows(len(slide), self.max_scored, self.seed)
        modes: tuple[InferenceMode, ...] = ("whole", "stitched")
        if len(scored) < len(slide):
            modes = ("stitched",)  # what is used; all at once is far beyond any size trained on
            print(
                f"      {slide.name}: scored on {len(scored)} random spots of {len(slide)}",
                flush=True,
            )
        xy = slide.xy[scored]
        scorer = SlideScorer(xy, seed=self.seed)
        h = torch.from_numpy(np.array(embed(encoder, slide, "st", self.folder / "cache")))
        layouts: dict[str, np.ndarray] = {}
        placements: dict[str, Placement] = {}
        used = self.placer.context.mode_for(len(slide))
        for mode in modes:
            repeated = mode == "stitched" and used == "whole"  # then they are the same
            placements[mode] = (
                placements["whole"]
                if repeated
                else self.placer.layout(h, mode, self.num_draws, self.seed)
            )
            layouts[f"spatial_ipa, {mode}"] = placements[mode].xy.numpy()[scored]
        layouts |= trivial_layouts(train, slide, encoder.panel, scored, self.max_scored, self.seed)
        self.rows += [
            {"slide": slide.name, "method": name, **scorer.score(layout)}
            for name, layout in layouts.items()
        ]
        shown = {name: layouts[name] for name in (f"spatial_ipa, {used}", "svr")}
        figure = layout_figure(slide.name, xy, shown)
        save_figure(figure, self.folder / f"layout_{file_name(slide)}.png")
        rows = torch.from_numpy(scored)
        trace = self.placer.trace_embedded(slide.name, h[rows], torch.tensor(xy), self.seed)
        self.traces.append(replace(trace, rows=scored[trace.rows]))

    def predict(self, slide: Slide, every: Slide, path: Path, *, alone: bool) -> None:
        """Write the predicted file of a held-out slide, and check its error radii if it has any.

        Args:
            slide: as it was scored.
            every: all rows of its file, also those without counts.
            path: the file.
            alone: the file holds no other slide; else only the rows of this one are placed, in a
                copy of the whole file.
        """
        target = self.folder / f"predicted_{file_name(slide)}.h5ad"
        prediction = self._place(every if alone else slide, "st")
        if not alone:
            own = np.zeros(len(every), dtype=bool)
            own[slide.rows] = True
            prediction = prediction.over(own)
        self._write(prediction, path, target)
        self._check_radii(slide.name, prediction, *_placed(prediction, slide))

    def place_sample(self, sample: Slide, path: Path, truth: Path | None) -> None:
        """Place one dissociated sample; score it where its true positions are known."""
        prediction = self._place(sample, "scrna")
        self._write(prediction, path, self.folder / f"predicted_{file_name(sample)}.h5ad")
        if truth is None:
            return
        placed, xy = _placed(prediction, read_slide(truth, min_spots=2))
        layout = prediction.xy[placed]
        self._check_radii(sample.name, prediction, placed, xy)
        settings, scale = prediction.settings, layout_scale(prediction.settings)
        radii = radius_map(prediction.obs(), settings, placed, scale, TISSUE)
        figure = layout_figure(sample.name, xy, {"spatial_ipa": layout}, radii)
        save_figure(figure, self.folder / f"layout_{sample.name}.png")
        scored = some_rows(len(xy), self.max_scored, self.seed)
        scores = SlideScorer(xy[scored], seed=self.seed).score(layout[scored])
        self.rows.append({"slide": sample.name, "method": "spatial_ipa", **scores})

    def write_table(self) -> None:
        """Print the scores and keep them as markdown, CSV and JSON, if there are any."""
        if not self.rows:
            return
        table = markdown_table(
            ["slide", "method", *COLUMNS],
            [
                [row["slide"], row["method"], *(number(row[c], missing="nan") for c in COLUMNS)]
                for row in self.rows
            ],
        )
        for name, text in (
            ("scores.md", table + "\n"),
            ("scores.json", json.dumps(self.rows, indent=1)),
        ):
            with atomic_path(self.folder / name) as temporary:
                temporary.write_text(text)
        with (
            atomic_path(self.folder / "scores.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        print(table, flush=True)

    def _place(self, slide: Slide, kind: EmbeddingKind) -> CellPrediction:
        options = PlacementOptions("auto", self.num_draws, seed=self.seed)
        return self.placer.predict(slide, kind, options)

    def _write(self, prediction: CellPrediction, path: Path, target: Path) -> None:
        """Write the file with the coordinates of its rows, and maps of how sure they are."""
        prediction.write(path, target, overwrite=True)
        print(f"      wrote {target}", flush=True)
        placed = ~prediction.empty
        maps = confidence_maps(prediction.obs(), prediction.settings, placed)
        figure = map_figure(prediction.xy[placed], maps)
        name = target.stem.removeprefix("predicted_")
        save_figure(figure, self.folder / f"uncertainty_{name}.png")

    def _check_radii(
        self, name: str, prediction: CellPrediction, placed: np.ndarray, xy: np.ndarray
    ) -> None:
        """Note how radii held against the true positions ``xy`` of the rows ``placed``, if any.

        Noted in RMS radii of the tissue: radii are written in the unit of the layout, which is
        larger by 1 / scale (:mod:`spatial_ipa.placing.judge`).
        """
        if "radius" not in prediction.columns:
            return
        scale = prediction.settings["calibration"]["scale"]
        radius = prediction.columns["radius"][placed] * scale
        abstain = prediction.columns["abstain"][placed]
        self.radii[name] = radius_check(radius, abstain, prediction.xy[placed], xy)


def _placed(prediction: CellPrediction, slide: Slide) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the file that were placed and whose position is known, and their positions.

    Placed are rows with counts of the encoder's genes: some, or all, of those of the slide.
    """
    assert slide.xy is not None
    placed = ~prediction.empty[slide.rows]
    return slide.rows[placed], slide.xy[placed]
