"""What ``lightning predict`` passes around: one request, read and checked before the model runs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from common.errors import UserError


class RequestDataModule(pl.LightningDataModule):
    """One request for ``predict_step``.

    A subclass refuses what can be refused in its constructor, and reads the input in ``read``.
    """

    def read(self) -> Any:
        """The request: the input, read and checked, with its options."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        if stage != "predict":
            name = type(self).__name__
            raise UserError(f"{name} only serves `lightning predict`, not {stage}")
        self.request = self.read()

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.request], batch_size=None)  # type: ignore[arg-type]


def provenance(**settings: Any) -> dict[str, Any]:
    """Versions of what computes, and settings, as they are written beside a result."""
    versions = {name: version(name) for name in ("edgewise", "torch", "lightning")}
    return {"versions": versions, **settings}
