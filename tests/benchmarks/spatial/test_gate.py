"""Average precision of the gate among candidates, on embeddings whose neighbours are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

import spatial_ipa
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.data.simulation.files import TissueSpec, write_tissue
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.states import IPALiteModel
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.placer import Placer


@pytest.fixture(scope="module")
def gate(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/gate")


class KnowingGate(nn.Module):
    """Knows the position, which is the first two embeddings; the others are noise."""

    def forward(self, h: Tensor, edges: EdgeList) -> Tensor:
        return -(h[edges.src, :2] - h[edges.dst, :2]).norm(dim=1)


def toy(n: int = 150, candidates: int = 60) -> tuple[Placer, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xy = rng.random((n, 2)).astype(np.float32)
    h = np.hstack([xy, 0.4 * rng.standard_normal((n, 4))]).astype(np.float32)
    network = IPALiteModel(NetworkSettings(d_input=6))
    context = PlacementContext(None, candidates, 384, 0.3)
    return Placer(network, KnowingGate(), context), h, xy  # type: ignore[arg-type]


def test_equals_scikit_learn_on_dense_matrices(gate: ModuleType) -> None:
    placer, h, xy = toy()
    found = gate.gate_precision(placer, h, xy)
    n, k = len(h), 22
    space, feature = cdist(xy, xy), cdist(h.astype(float), h.astype(float))
    near = space <= np.sort(space, axis=1)[:, [k]]
    rank = np.argsort(np.argsort(feature, axis=1), axis=1)
    candidate = (rank >= 1) & (rank <= 60)
    scores = {
        "gate": -space,
        "h_i.h_j": h.astype(float) @ h.T.astype(float),
        "-|h_i-h_j|": -feature,
        "mutual rank": -np.sqrt(rank * rank.T),
    }
    assert found["chance"] == pytest.approx(near[candidate].mean())
    for name, score in scores.items():
        expected = average_precision_score(near[candidate], score[candidate])
        assert found[f"{name}, all"] == pytest.approx(expected, abs=1e-5), name
        cells = [
            average_precision_score(near[i][candidate[i]], score[i][candidate[i]])
            for i in range(n)
            if near[i][candidate[i]].any()
        ]
        assert found[f"{name}, by cell"] == pytest.approx(np.mean(cells), abs=1e-5), name


def test_a_gate_that_knows_beats_similarity(gate: ModuleType) -> None:
    placer, h, xy = toy()
    found = gate.gate_precision(placer, h, xy)
    assert found["gate, by cell"] == pytest.approx(1.0)
    assert found["gate, all"] > 0.9
    for name in gate.SCORES[1:]:
        assert found["chance"] + 0.02 < found[f"{name}, by cell"] < 0.95, name


def test_without_a_gate_its_figures_are_left_out(gate: ModuleType) -> None:
    placer, h, xy = toy()
    found = gate.gate_precision(Placer(placer.network, None, placer.context), h, xy)
    assert not any(name.startswith("gate") for name in found)
    text = gate.table_of({"s": found})
    assert "| s | h_i.h_j |" in text
    assert "| mean | chance |" in text
    assert "gate" not in text


def test_subsets_are_those_of_the_recall(gate: ModuleType) -> None:
    (whole,) = gate.subsets(300)
    assert whole.tolist() == list(range(300))
    several = gate.subsets(900)
    assert [len(s) for s in several] == [384] * 10
    assert len({tuple(s.tolist()) for s in several}) == 10


def test_coincident_cells_have_ranks_of_their_own(gate: ModuleType) -> None:
    """A cell that lies on others must not be taken for them."""
    h = torch.zeros(6, 2)
    edges = knn_edges(torch.arange(12.0).reshape(6, 2), 3)
    score = gate.edge_scores(h, edges, None)["mutual rank"]
    assert (score <= -1.0).all()


@pytest.mark.filterwarnings("default")
def test_from_an_exported_checkpoint(
    gate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tissue = write_tissue(
        TissueSpec(num_slides=2, spots_per_slide=100, num_genes=120, num_cells=20), tmp_path / "t"
    )
    trained, new = map(str, tissue.slides)
    overrides = [
        "--model.init_args.network.c_s=16",
        "--model.init_args.schedule.gate_steps=2",
        "--data.init_args.minisets.per_epoch=4",
        "--trainer.enable_progress_bar=false",
    ]
    spatial_ipa.fit([trained], out=tmp_path / "run", epochs=1, overrides=overrides)
    checkpoint = str(tmp_path / "run" / "spatial_ipa.ckpt")
    gate.main(["--checkpoint", checkpoint, "--slides", new])
    out = capsys.readouterr().out
    assert "| slide_1 | gate | 0." in out
    with pytest.raises(SystemExit):
        gate.main(["--checkpoint", checkpoint, "--slides", trained])
    assert "has the same expression" in capsys.readouterr().err
