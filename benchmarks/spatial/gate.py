"""Does the gate find the neighbours among the candidates better than similarity alone?

    python benchmarks/spatial/gate.py --checkpoint runs/own.ckpt --slides DATA/her2st/A6.h5ad

``--slides`` are slides with coordinates that the checkpoint was not trained on; those its encoder
was trained on are refused.  On subsets of up to 384 cells, as in training and stitching, candidates
are the k nearest in H, and one (j, i) of them is right if j is among the max(20, 0.15 n) nearest of
i in the tissue.  Average precision of

* ``gate``: the gate's logit;
* ``h_i.h_j``: the inner product of the embeddings;
* ``-|h_i-h_j|``: their distance;
* ``mutual rank``: the geometric mean of the ranks of j among all seen from i and of i seen from j.

``all`` ranks all edges of a subset together; ``by cell`` the candidates of each cell by themselves,
which is all that a softmax over them sees, and means over cells.  Chance is the share of right
candidates.  Figures are means over subsets, then over slides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.report.machine import describe_machine
from common.report.tables import markdown_table, number
from common.rng import generator_for
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.split import check_split
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import nearest_weight
from spatial_ipa.geometry.ranking import average_precision
from spatial_ipa.model.gate import shared_logit
from spatial_ipa.model.minisets import draw_members
from spatial_ipa.placing.embedded import EmbeddedPlacer
from spatial_ipa.placing.load import load

SUBSET, DRAWS = 384, 10
SCORES = ("gate", "h_i.h_j", "-|h_i-h_j|", "mutual rank")
CHANCE = "chance"


def subsets(n: int) -> list[Tensor]:
    """Ten subsets of 384 of n cells, each ascending; all cells, once, where there are no more."""
    return [
        draw_members(n, SUBSET, SUBSET, generator_for(0, 78, draw))
        for draw in range(DRAWS if n > SUBSET else 1)
    ]


def right_edges(xy: np.ndarray, edges: EdgeList) -> np.ndarray:
    """(E,) bool: is the source among the nearest of the destination?  Ties at the last all are."""
    near = nearest_weight(xy.astype(np.float64), np.arange(len(xy)), adaptive_k(len(xy))) > 0
    return near[edges.dst.numpy(), edges.src.numpy()]


def edge_scores(h: Tensor, edges: EdgeList, logit: Tensor | None) -> dict[str, np.ndarray]:
    """(E,) scores of the candidates by name; without the gate's where there is none."""
    distance = torch.cdist(h.double(), h.double(), compute_mode="donot_use_mm_for_euclid_dist")
    # Rank 0 is the cell itself: its distance is 0, and below it where cells coincide.
    ranked = distance.clone().fill_diagonal_(-1.0)
    rank = ranked.argsort(dim=1, stable=True).argsort(dim=1).double()
    i, j = edges.dst, edges.src
    values = {
        "h_i.h_j": (h.index_select(0, i) * h.index_select(0, j)).sum(1),
        "-|h_i-h_j|": -distance[i, j],
        "mutual rank": -(rank[i, j] * rank[j, i]).sqrt(),
    }
    if logit is not None:
        values = {"gate": logit, **values}
    return {name: value.numpy() for name, value in values.items()}


def by_cell(right: np.ndarray, score: np.ndarray, edges: EdgeList) -> float:
    """Mean average precision over cells that have a right candidate."""
    bounds = edges.ptr.tolist()
    found = [
        average_precision(right[a:b], score[a:b]) for a, b in pairwise(bounds) if right[a:b].any()
    ]
    return float(np.mean(found)) if found else float("nan")


@torch.no_grad()
def gate_precision(placer: EmbeddedPlacer, h: np.ndarray, xy: np.ndarray) -> dict[str, float]:
    """Average precision on one slide: ``<score>, all`` and ``<score>, by cell``, and chance.

    Args:
        placer: the model; of one without a gate the gate's figures are left out.
        h: (n, d) embeddings.
        xy: (n, 2) true coordinates.
    """
    found: list[dict[str, float]] = []
    for chosen in subsets(len(h)):
        own = torch.from_numpy(np.ascontiguousarray(h[chosen.numpy()]))
        edges = knn_edges(own, placer.context.num_candidates)
        logit = None
        if placer.gate is not None:
            device = placer.device
            logit = shared_logit(placer.gate(own.to(device), edges.to(device))).float().cpu()
        right = right_edges(xy[chosen.numpy()], edges)
        row = {CHANCE: float(right.mean())}
        for name, score in edge_scores(own, edges, logit).items():
            row[f"{name}, all"] = average_precision(right, score)
            row[f"{name}, by cell"] = by_cell(right, score, edges)
        found.append(row)
    return {key: float(np.mean([row[key] for row in found])) for key in found[0]}


def table_of(slides: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table, a row for each slide and score, and their means over slides."""
    rows = []
    mean = {
        key: float(np.mean([s[key] for s in slides.values()]))
        for key in next(iter(slides.values()))
    }
    for slide, values in {**slides, "mean": mean}.items():
        rows += [
            [slide, name, *(number(values[f"{name}, {way}"]) for way in ("all", "by cell"))]
            for name in SCORES
            if f"{name}, all" in values
        ]
        rows.append([slide, CHANCE, number(values[CHANCE]), ""])
    return markdown_table(["held out", "score", "AP, all", "AP, by cell"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--slides", nargs="+", required=True, help="files, folders or patterns")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    try:
        placer, slides = load(given.checkpoint), read_slides(given.slides)
        check_split(placer.encoder.split, [], slides)
    except UserError as error:
        parser.error(str(error))
    found = {}
    for slide in slides:
        assert slide.xy is not None
        found[slide.name] = gate_precision(placer, placer.encoder.embed(slide, "st"), slide.xy)
    print(f"command: {' '.join(arguments or sys.argv)}")
    print(f"{describe_machine()}\n{placer.context.num_candidates} candidates\n")
    print(table_of(found))


if __name__ == "__main__":
    main()
