"""Hyperparameters in checkpoints: plain, and in the form the constructor takes."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.pytorch import LightningModule

from common.training.hyperparameters import make_plain, regroup


@dataclass(frozen=True)
class Size:
    width: int = 1
    depth: int = 2


class Toy(LightningModule):
    def __init__(self, size: Size = Size(), seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        make_plain(self)


def test_settings_become_dictionaries() -> None:
    assert dict(Toy(Size(3), 4).hparams) == {"size": {"width": 3, "depth": 2}, "seed": 4}


def test_what_stands_side_by_side_is_grouped() -> None:
    old = {"width": 3, "cap": 0.5, "seed": 4}
    new = regroup(old, {"size": Size}, {"cap": ("weights", "rw")})
    assert new == {"size": {"width": 3}, "weights": {"rw": 0.5}, "seed": 4}
    assert old == {"width": 3, "cap": 0.5, "seed": 4}


def test_what_is_grouped_stays() -> None:
    new = {"size": {"width": 3, "depth": 1}, "seed": 4}
    assert regroup(new, {"size": Size}) == new
