"""Files of five proteins, their data module, and a module that records what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import DrawSettings, Sources, SplitSettings
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.residues import ALPHABET

# (residues of each chain, models)
PROTEINS = {
    "one": ((30,), 6),
    "two": ((42,), 8),
    "dimer": ((25, 36), 5),
    "three": ((55,), 7),
    "apart": ((33,), 6),
}


def make_ensemble(name: str, chains: tuple[int, ...], models: int) -> Ensemble:
    """Helices with noise on their torsions; a sequence of its own for each chain."""
    rng = np.random.default_rng(list(name.encode()))
    length = sum(chains)
    index = torch.repeat_interleave(torch.arange(len(chains)), torch.tensor(chains))
    bonded = torch.cat([index[1:] == index[:-1], torch.tensor([False])])
    helix = torch.tensor([-1.1, -0.75, np.pi])[:, None, None]
    noise = torch.tensor(0.1 * rng.normal(size=(3, models, length)))
    xyz = build_backbone(Torsions(*(helix + noise)), bonded.expand(models, -1))
    xyz = xyz + 40.0 * index[:, None, None]  # chains apart
    return Ensemble(
        name=name,
        coordinates=xyz.float(),
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence="".join(rng.choice(list(ALPHABET), length)),
        chain_index=index,
        chain_ids=tuple("ABC"[: len(chains)]),
        residue_numbers=torch.cat([torch.arange(1, n + 1) for n in chains]),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="test",
        model_numbers=tuple(range(1, models + 1)),
    )


def grouped(**flat: Any) -> EnsembleDataModule:
    """The data module with the fields of its settings given by name; ``split_seed`` is one."""
    groups: dict[str, Any] = {}
    for group, kind in (("sources", Sources), ("draws", DrawSettings), ("split", SplitSettings)):
        own = {name: flat.pop(name) for name in kind.__dataclass_fields__ if name in flat}
        if group == "split" and "split_seed" in flat:
            own["seed"] = flat.pop("split_seed")
        groups[group] = kind(**own)
    return EnsembleDataModule(**groups, **flat)


def make_module(folder: Path, **options: Any) -> EnsembleDataModule:
    settings: dict[str, Any] = {"batch_proteins": 2, "per_epoch": 8}
    return grouped(structures=(str(folder),), **(settings | options))


@dataclass(frozen=True)
class Seen:
    """What tells one item from another."""

    name: str
    model: int
    template: float
    weight: float


class Recorder(pl.LightningModule):
    """Records every item of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))
        self.train_seen: list[list[Seen]] = []
        self.seen: dict[int, list[Seen]] = {}

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> torch.Tensor:
        self.train_seen.append(items_of(batch))
        return (batch.coordinates[batch.mask] + self.shift).square().mean()

    def validation_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.setdefault(dataloader_idx, []).extend(items_of(batch))

    test_step = validation_step

    def predict_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> str:
        self.validation_step(batch, batch_idx, dataloader_idx)
        return "seen"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def items_of(batch: ProteinBatch) -> list[Seen]:
    batch.check()
    template = (batch.template * batch.template_mask[..., None, None]).double().sum((1, 2, 3))
    columns = (batch.names, batch.model.tolist(), template.tolist(), batch.weight.tolist())
    return [Seen(*row) for row in zip(*columns, strict=True)]


def make_trainer(root: Path, epochs: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=root,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
