"""Pretraining of the gate."""

from __future__ import annotations

import numpy as np
import torch

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.losses import loss_gate
from spatial_ipa.model.minisets import Augmentation, Miniset, MinisetDataset
from spatial_ipa.training.gate_pretraining import pretrain_gate

D = 8


def learnable_slide(name: str, n: int = 150, seed: int = 0) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the coordinates plus two columns of noise."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    waves = [f(np.pi * xy) for f in (np.sin, np.cos)]
    h = np.concatenate([2 * xy - 1, *waves, 0.3 * rng.standard_normal((n, 2))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), xy.astype(np.float32))


def gate_and_data() -> tuple[EdgeGateSoft, MinisetDataset]:
    torch.manual_seed(0)
    augmentation = Augmentation(noise_h=0.05, dropout_h=0.0, drop_edges=0.2)
    data = MinisetDataset([learnable_slide("a")], 10, 60, 80, 40, 0, None, augmentation)
    return EdgeGateSoft(D, 16), data


@torch.no_grad()
def gate_kl(gate: EdgeGateSoft, item: Miniset) -> float:
    logit = gate(item.h, item.candidates)
    return loss_gate(logit, item.candidates, item.wanted, item.target).mean().item()


def test_pretraining_lowers_the_kl_on_a_slide_it_has_not_seen() -> None:
    gate, data = gate_and_data()
    unseen = MinisetDataset([learnable_slide("b", seed=1)], 1, 80, 80, 40)[0]
    before = gate_kl(gate, unseen)
    history = pretrain_gate(gate, data, 120, 1e-2, 0.0)
    assert len(history) == 120
    assert np.mean(history[-10:]) < 0.5 * np.mean(history[:3])
    assert gate_kl(gate, unseen) < 0.6 * before


def test_pretraining_is_deterministic() -> None:
    (first, data), (again, _) = gate_and_data(), gate_and_data()
    one = pretrain_gate(first, data, 5, 1e-2, 1e-2)
    torch.manual_seed(99)
    two = pretrain_gate(again, data, 5, 1e-2, 1e-2)
    assert one == two
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_steps_leave_the_gate_alone() -> None:
    (gate, data), (untouched, _) = gate_and_data(), gate_and_data()
    assert pretrain_gate(gate, data, 0, 1e-2, 0.0) == []
    for a, b in zip(gate.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b)
