"""Ensembles that are in memory, or partly in files, as training and evaluation take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.reading import noted
from protein_cvae.data.settings import DrawSettings, Sources, SplitSettings
from protein_cvae.ensemble import Ensemble

Given = Ensemble | str | Path


class InMemoryDataModule(EnsembleDataModule):
    """As its parent, with ensembles given as objects before those of the files.

    Objects are taken as they are; of files it takes the chains that ``sources`` says.

    Args:
        given: ensembles; files, folders and patterns, trajectory folders among them.
        sources: what is taken of files, and the limits of size; of its paths
            only ``conformers`` are used.
        split, draws, embedder, num_workers: see the parent.
    """

    def __init__(
        self,
        given: Given | Sequence[Given],
        sources: Sources = Sources(),
        split: SplitSettings = SplitSettings(),
        draws: DrawSettings = DrawSettings(),
        embedder: SequenceEmbedder | None = None,
        num_workers: int = 0,
    ) -> None:
        listed = [given] if isinstance(given, Ensemble | str | Path) else list(given)
        if not listed and not sources.conformers:
            raise UserError("ensembles: expected at least one ensemble or path, got none")
        paths = tuple(str(item) for item in listed if not isinstance(item, Ensemble))
        sources = replace(sources, structures=paths, trajectories=())
        super().__init__(sources, None, split, draws, embedder, num_workers)
        objects = [item for item in listed if isinstance(item, Ensemble)]
        self.given = tuple(map(noted, objects) if sources.incomplete == "drop" else objects)

    def _ensembles(self) -> Iterator[Ensemble]:
        yield from self.given
        if self.sources.structures or self.sources.conformers:
            yield from super()._ensembles()
