"""The slides and samples of one run, read together: what holds for one holds for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files.atomic import atomic_path
from common.files.lists import one_or_several
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import Paths, read_by_file, read_slide, slide_files
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.values import refuse_mixed_values


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
) -> RunSlides:
    """Read everything of a run.

    Args:
        train, validation, holdout, scrna: files, folders or patterns; all but the first may be
            empty.
        keys: where in a slide's file its parts are.
        scrna_keys: the same for samples; as ``keys`` where null.

    Raises:
        FileNotFoundError: if an entry gives no file.
        ValueError: if a file cannot be used, or some hold counts and others logarithms.
    """

    def slides(paths: Paths) -> list[tuple[Path, list[Slide]]]:
        return read_by_file(paths, keys) if one_or_several(paths) else []

    cells = scrna_keys.or_else(keys)
    samples = [
        (path, read_slide(path, cells, require_spatial=False))
        for path in (slide_files(scrna) if one_or_several(scrna) else [])
    ]
    read = RunSlides(
        [slide for _, group in slides(train) for slide in group],
        [slide for _, group in slides(validation) for slide in group],
        slides(holdout),
        samples,
    )
    refuse_mixed_values([*read.train, *read.validation, *read.heldout_slides, *read.samples])
    return read
