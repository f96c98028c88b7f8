"""Batches pad with nothing, move whole, and refuse what does not fit."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.residues import UNKNOWN

TENSORS = [f.name for f in fields(ProteinBatch) if f.name != "names"]


def make_item(length: int, seed: int, width: int = 3) -> ProteinBatch:
    rng = np.random.default_rng(seed)
    bonded = torch.ones(1, length, dtype=torch.bool)
    bonded[:, -1] = False
    return ProteinBatch(
        coordinates=torch.tensor(rng.normal(size=(1, length, 3, 3)), dtype=torch.float32),
        mask=torch.tensor(rng.random((1, length)) < 0.9),
        template=torch.tensor(rng.normal(size=(1, length, 3, 3)), dtype=torch.float32),
        template_mask=torch.tensor(rng.random((1, length)) < 0.9),
        aatype=torch.tensor(rng.integers(0, 20, (1, length))),
        embedding=torch.tensor(rng.normal(size=(1, length, width)), dtype=torch.float32),
        sequence_mask=torch.tensor([True]),
        chain_index=torch.zeros(1, length, dtype=torch.int64),
        residue_index=torch.arange(length)[None],
        bonded=bonded,
        core=torch.tensor(rng.random((1, length)) < 0.5),
        weight=torch.tensor([0.5]),
        protein=torch.tensor([seed]),
        model=torch.tensor([seed + 1]),
        names=(f"p{seed}",),
    )


ITEMS = [make_item(length, seed) for seed, length in enumerate((5, 9, 7))]


def test_collate_keeps_each_item_and_pads_with_nothing() -> None:
    batch = collate(ITEMS)
    batch.check()
    assert (len(batch), batch.length, batch.names) == (3, 9, ("p0", "p1", "p2"))
    for i, item in enumerate(ITEMS):
        for name in TENSORS:
            ours, theirs = getattr(batch, name)[i], getattr(item, name)[0]
            if theirs.dim() == 0:
                assert ours == theirs
                continue
            assert torch.equal(ours[: item.length], theirs)
            fill = {"aatype": UNKNOWN, "chain_index": -1}.get(name, 0)
            assert (ours[item.length :] == fill).all(), name


def test_collate_of_batches_equals_collate_of_items() -> None:
    whole = collate(ITEMS)
    joined = collate([collate(ITEMS[:2]), ITEMS[2]])
    for name in TENSORS:
        assert torch.equal(getattr(whole, name), getattr(joined, name))


@pytest.mark.parametrize("index", [0, 1, -1])
def test_item_takes_one_conformer(index: int) -> None:
    one = collate(ITEMS).item(index)
    assert len(one) == 1
    assert one.names == ITEMS[index].names
    assert torch.equal(one.coordinates[:, : ITEMS[index].length], ITEMS[index].coordinates)


def test_lightning_moves_every_tensor() -> None:
    batch = collate(ITEMS)
    moved = LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, ProteinBatch)
    assert moved.names == batch.names
    for name in TENSORS:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape


def test_every_tensor_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pinning needs an accelerator: recorded here is which tensors are asked.
    pinned: list[torch.Tensor] = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", record)
    batch = collate(ITEMS)
    moved = batch.pin_memory()
    assert isinstance(moved, ProteinBatch)
    assert {id(tensor) for tensor in pinned} == {id(getattr(batch, name)) for name in TENSORS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aatype": torch.zeros(1, 5, dtype=torch.int32)}, r"aatype must be torch.int64"),
        ({"template": torch.zeros(1, 4, 3, 3)}, r"template .*shape \(1, 5, 3, 3\)"),
        ({"weight": torch.ones(2)}, r"weight .*shape \(1,\)"),
        ({"coordinates": torch.full((1, 5, 3, 3), torch.nan)}, "coordinates of p0 holds NaN"),
        ({"bonded": torch.ones(1, 5, dtype=torch.bool)}, "bonded: the last residue"),
        ({"aatype": torch.full((1, 5), 21)}, r"aatype must lie in 0\.\.20"),
        ({"names": ()}, "names must hold 1"),
    ],
)
def test_check_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ITEMS[0], **change).check()  # type: ignore[arg-type]


def test_collate_refuses_nothing_and_mixed_widths() -> None:
    with pytest.raises(ValueError, match="at least one conformer"):
        collate([])
    with pytest.raises(ValueError, match=r"same width, got \[3, 4\]"):
        collate([ITEMS[0], make_item(5, 0, width=4)])
