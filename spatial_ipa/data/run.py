"""The slides and samples of one run, read together: what holds for one holds for all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files.atomic import atomic_path
from common.files.lists import one_or_several
from spatial_ipa.data.formats import is_streamable
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import Paths, read_by_file, slide_files
from spatial_ipa.data.slide import Slide, only_one
from spatial_ipa.data.stored_rows import stored_mb
from spatial_ipa.data.values import refuse_mixed_values

MEMORY_MB = 1024.0
"""Most MB of counts of all slides of a run that are kept in memory, unless another is given."""


@dataclass(frozen=True)
class RunSlides:
    """Slides and samples by role.

    Attributes:
        train: to train on.
        validation: that choose the epoch and calibrate.
        holdout: files of slides to score on, with the slides of each.
        scrna: files of dissociated samples, with the sample of each.
    """

    train: list[Slide]
    validation: list[Slide]
    holdout: list[tuple[Path, list[Slide]]]
    scrna: list[tuple[Path, Slide]]

    @property
    def heldout_slides(self) -> list[Slide]:
        return [slide for _, slides in self.holdout for slide in slides]

    @property
    def samples(self) -> list[Slide]:
        return [sample for _, sample in self.scrna]

    def lines(self) -> list[str]:
        """What was read, one line for each slide and sample."""
        return [
            f"{slide.name} ({role}): {len(slide)} rows, {len(slide.genes)} genes, "
            + "; ".join(("log-normalised" if slide.is_logged else "counts", *slide.notes))
            for role, slides in self._roles()
            for slide in slides
        ]

    def write(self, path: Path) -> None:
        """Keep what was read, with what was left out, changed or decided, as JSON."""
        entries: list[dict[str, Any]] = [
            {
                "name": slide.name,
                "role": role,
                "rows": len(slide),
                "genes": len(slide.genes),
                "values": "logged" if slide.is_logged else "counts",
                "notes": list(slide.notes),
            }
            for role, slides in self._roles()
            for slide in slides
        ]
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(entries, indent=1))

    def _roles(self) -> list[tuple[str, list[Slide]]]:
        return [
            ("training", self.train),
            ("validation", self.validation),
            ("held out", self.heldout_slides),
            ("dissociated", self.samples),
        ]


def read_run(
    train: Paths,
    validation: Paths = (),
    holdout: Paths = (),
    scrna: Paths = (),
    *,
    keys: SlideKeys = SlideKeys(),
    scrna_keys: SlideKeys = SlideKeys(),
    memory_mb: float | None = MEMORY_MB,
) -> RunSlides:
    """Read everything of a run.

    Args:
        train, validation, holdout, scrna: files, folders or patterns; all but the first may be
            empty.
        keys: where in a slide's file its parts are.
        scrna_keys: the same for samples; as ``keys`` where null.
        memory_mb: if the counts of all are more, at 8 bytes an entry, they stay in their files and
            are read when they are asked for; null keeps any amount in memory.  Results are the
            same.

    Raises:
        FileNotFoundError: if an entry gives no file.
        ValueError: if a file cannot be used, some hold counts and others logarithms, or
            ``memory_mb`` is negative.
    """
    check_memory(memory_mb)
    cells = scrna_keys.or_else(keys)
    roles = [(paths, keys) for paths in (train, validation, holdout)] + [(scrna, cells)]
    stream = memory_mb is not None and _exceeds(roles, memory_mb)

    def slides(paths: Paths) -> list[tuple[Path, list[Slide]]]:
        return read_by_file(paths, keys, stream=stream) if one_or_several(paths) else []

    samples = [
        (path, only_one(group, str(path)))
        for file in (slide_files(scrna) if one_or_several(scrna) else [])
        for path, group in read_by_file(file, cells, require_spatial=False, stream=stream)
    ]
    read = RunSlides(
        [slide for _, group in slides(train) for slide in group],
        [slide for _, group in slides(validation) for slide in group],
        slides(holdout),
        samples,
    )
    every = [*read.train, *read.validation, *read.heldout_slides, *read.samples]
    refuse_mixed_values(every)
    held = [slide.name for slide in every if not slide.is_streamed]
    if stream and held:
        warnings.warn(
            f"counts of {', '.join(held[:3])}{', ...' if len(held) > 3 else ''} stay in memory: "
            f"beyond memory_mb={memory_mb:g} only .h5ad files are read in parts, so save these as "
            "such (write_h5ad)",
            stacklevel=2,
        )
    return read


def check_memory(memory_mb: float | None) -> None:
    """Raise ValueError on a negative amount."""
    if memory_mb is not None and not memory_mb >= 0:
        raise UserError(f"memory_mb must not be negative, got {memory_mb}")


def _exceeds(roles: Sequence[tuple[Paths, SlideKeys]], memory_mb: float) -> bool:
    """Whether files of some roles hold more counts than that."""
    total = sum(
        stored_mb(path, keys)
        for paths, keys in roles
        if one_or_several(paths)
        for path in slide_files(paths)
        if is_streamable(path)
    )
    return total > memory_mb
