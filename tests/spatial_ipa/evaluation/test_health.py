"""Focus maps, progression and the tables of health checks: what is drawn, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.evaluation.health import write_health
from spatial_ipa.evaluation.plots.attention import (
    PLACES,
    focus_cells,
    focus_figure,
    progression_figure,
)
from spatial_ipa.evaluation.plots.colours import error_colours, position_colours
from spatial_ipa.evaluation.plots.layouts import superpose
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.model.trace import Trace

N, K, HEADS = 70, 9, 2
GREY = 0.82


def a_trace(name: str = "A/1", recycles: int = 3) -> Trace:
    """Cell 5 looks at one cell alone by head 0, at all alike by head 1."""
    rng = np.random.default_rng(0)
    xy = gauge_fix_array(rng.random((N, 2)) * [3, 2])
    edges: EdgeList = knn_edges(torch.tensor(rng.random((N, 4)), dtype=torch.float32), K)
    weights = np.full((N * K, HEADS), 1 / K, np.float32)
    row = slice(5 * K, 6 * K)
    weights[row, 0] = 0
    weights[5 * K + 3, 0] = 1
    layouts = [xy + s * rng.standard_normal((N, 2)) for s in np.linspace(1, 0.2, recycles + 1)]
    health = {f"head_recall30/{h}": 0.25 + h for h in range(HEADS)}
    health |= {f"step_size/{r}": 0.5 for r in range(recycles)} | {"nearest_cv": float("nan")}
    return Trace(
        name,
        xy,
        np.stack(layouts),
        edges,
        weights,
        rng.random(N * K) < 0.5,
        np.arange(N) * 2,
        health,
    )


def cloud(figure: Figure) -> PathCollection:
    """All points of all panels."""
    (found,) = (c for c in figure.axes[0].collections if c.get_label() == "_panels")
    assert isinstance(found, PathCollection)
    return found


def panel_titles(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_cells_are_those_at_the_centre_and_the_quartiles() -> None:
    xy = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0), indexing="ij"), 2).reshape(-1, 2)
    chosen = focus_cells(xy)
    assert list(chosen) == list(PLACES)
    assert [xy[i].tolist() for i in chosen.values()] == [[4, 4], [2, 2], [6, 6], [2, 6], [6, 2]]
    order = np.random.default_rng(0).permutation(81)
    again = focus_cells(xy[order] * 3 - 7)
    assert [order[i] for i in again.values()] == list(chosen.values())
    assert list(focus_cells(xy, 2)) == ["centre", "lower left"]


def test_no_cell_is_shown_twice() -> None:
    xy = np.concatenate([np.zeros((6, 2)), [[50.0, 50.0]]])
    assert len(set(focus_cells(xy).values())) == 5
    assert len(focus_cells(xy[:3])) == 3
    for count in (0, 6):
        with pytest.raises(UserError, match=f"must lie in \\[1, 5\\], got {count}"):
            focus_cells(xy, count)


def test_focus_map_shows_the_attention_of_each_head(tmp_path: Path) -> None:
    trace = a_trace()
    figure = focus_figure(trace, {"here": 5, "there": 40})
    shares = [trace.true_share(cell) for cell in (5, 40)]
    assert panel_titles(figure)[: 2 * HEADS] == [
        f"head {h}: {share[h]:.0%} on true" for share in shares for h in range(HEADS)
    ]
    assert [t for t in panel_titles(figure) if "cell" in t] == ["here\ncell 10", "there\ncell 80"]
    points, colours = cloud(figure).get_offsets(), cloud(figure).get_facecolor()
    assert len(points) == len(colours) == 2 * HEADS * N
    shown = np.asarray(colours)[:, :3].reshape(2 * HEADS, N, 3)
    # The one cell that head 0 of cell 5 looks at comes last, in the darkest colour; the other
    # candidates have the palest, cells without an edge are grey.
    np.testing.assert_allclose(shown[0, -1], error_colours()(1.0)[:3], atol=1e-6)
    np.testing.assert_allclose(shown[0, -K:-1], [error_colours()(0.0)[:3]] * (K - 1), atol=1e-6)
    assert (np.abs(shown[:, : N - K] - GREY) < 1e-6).all()
    seen = trace.xy[trace.edges.src[5 * K + 3]]
    panels = np.asarray(points).reshape(2 * HEADS, N, 2)
    np.testing.assert_allclose(panels[0, -1], seen, atol=1e-6)  # the first panel is not shifted
    # Even attention has one colour, the same in all panels.
    even = shown[1:, N - K :].reshape(-1, 3)
    assert np.ptp(even, axis=0).max() < 1e-6
    (crosses,) = (c for c in figure.axes[0].collections if c.get_label() == "_cells")
    assert len(crosses.get_offsets()) == 2 * HEADS
    np.testing.assert_allclose(crosses.get_offsets()[0], trace.xy[5])
    figure.savefig(tmp_path / "focus.png")
    assert len(focus_figure(trace).axes[0].texts) == 5 * HEADS + 5


def test_panels_do_not_overlap() -> None:
    for figure, rows, columns in (
        (focus_figure(a_trace(), {"a": 1, "b": 2, "c": 3}), 3, HEADS),
        (progression_figure(a_trace()), 1, 5),
    ):
        panels = np.asarray(cloud(figure).get_offsets()).reshape(rows, columns, N, 2)
        low, high = panels.min(2), panels.max(2)
        assert (low[:, 1:, 0] > high[:, :-1, 0]).all()
        assert (high[1:, :, 1] < low[:-1, :, 1]).all()
        axis = figure.axes[0]
        for side, limits in ((0, axis.get_xlim()), (1, axis.get_ylim())):
            assert limits[0] < panels[..., side].min()
            assert panels[..., side].max() < limits[1]


def test_progression_shows_every_recycle_superposed_on_the_truth() -> None:
    trace = a_trace()
    turned = trace.trajectory @ np.array([[0.0, -3.0], [3.0, 0.0]])  # any pose and scale
    figure = progression_figure(replace(trace, trajectory=turned))
    errors = [f"{procrustes_rmse(layout, trace.xy):.3f}" for layout in trace.trajectory]
    names = ["start", "recycle 0", "recycle 1", "recycle 2"]
    assert panel_titles(figure) == [
        "true positions", *(f"{n}: RMSE {e}" for n, e in zip(names, errors, strict=True)),
    ]  # fmt: skip
    assert errors == sorted(errors, reverse=True)
    panels = np.asarray(cloud(figure).get_offsets()).reshape(5, N, 2)
    colours = np.asarray(cloud(figure).get_facecolor()).reshape(5, N, 4)
    np.testing.assert_allclose(panels[0], trace.xy, atol=1e-5)
    for i, layout in enumerate(trace.trajectory):
        shift = panels[i + 1] - superpose(layout, trace.xy)[0]
        assert np.ptp(shift, axis=0).max() < 1e-4
        np.testing.assert_allclose(colours[i + 1, :, :3], position_colours(trace.xy), atol=1e-6)
    assert figure.get_suptitle() == "A/1"


def test_report_holds_tables_numbers_and_figures(tmp_path: Path) -> None:
    traces = [a_trace(), a_trace("B", recycles=2)]
    text = write_health(traces, tmp_path)
    assert (tmp_path / "health.md").read_text() == text
    assert text == (
        "| slide | recycle | step_size |\n| --- | --- | --- |\n"
        "| A/1 | 0 | 0.500 |\n| A/1 | 1 | 0.500 |\n| A/1 | 2 | 0.500 |\n"
        "| B | 0 | 0.500 |\n| B | 1 | 0.500 |\n\n"
        "| slide | head | head_recall30 |\n| --- | --- | --- |\n"
        "| A/1 | 0 | 0.250 |\n| A/1 | 1 | 1.250 |\n| B | 0 | 0.250 |\n| B | 1 | 1.250 |\n\n"
        "| slide | nearest_cv |\n| --- | --- |\n| A/1 | – |\n| B | – |\n"
    )
    held = json.loads((tmp_path / "health.json").read_text())
    assert held["B"] == {
        "head_recall30/0": 0.25, "head_recall30/1": 1.25, "step_size/0": 0.5, "step_size/1": 0.5,
        "nearest_cv": None,
    }  # fmt: skip
    for kind in ("focus", "progression"):
        for name in ("A_1", "B"):
            assert (tmp_path / f"{kind}_{name}.png").read_bytes().startswith(b"\x89PNG")
