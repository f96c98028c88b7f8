"""Slides from files and from AnnData objects in memory.

A source is checked before anything is computed from it (:mod:`spatial_ipa.data.checks`); what each
format reads of a file is said in its reader (:mod:`spatial_ipa.data.formats`).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from anndata import AnnData

from common.errors import MissingFile, UserError
from spatial_ipa.data.formats import READERS, reader_for
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.slide import Slide


def read_slide(
    path: str | Path,
    keys: SlideKeys = SlideKeys(),
    *,
    require_spatial: bool = True,
    min_spots: int = 50,
    logged: bool | None = None,
    name: str | None = None,
) -> Slide:
    """Read and check one file.

    Args:
        path: the file.
        keys: where in it matrix, gene names and coordinates are.
        require_spatial: True for a slide to train or validate on: coordinates must be there and
            spots without counts are dropped, with a warning.  False for prediction: coordinates
            are not looked at, every row is kept and ``Slide.is_empty`` flags the empty ones.
        min_spots: fewest spots or cells accepted.
        logged: whether the values are log-normalised; None decides: values that are not all
            integers and stay below 20 are.
        name: name of the slide; the file's stem if None.

    Returns:
        The slide.  Gene names are stripped of surrounding white space, and counts of genes that
        share a name are summed, with a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not readable, its matrix, names or coordinates cannot be used,
            or a slide holds several sections or patients; the message names the file and says
            what to do.

    Example:
        >>> import spatial_ipa
        >>> slide = spatial_ipa.read_slide(example_files[0])
        >>> len(slide), len(slide.genes), slide.xy.shape
        (80, 120, (80, 2))
    """
    path = Path(path)
    parts = reader_for(path)(path, keys, with_xy=require_spatial)
    return Slide.from_parts(
        path.stem if name is None else name,
        str(path),
        parts,
        keys,
        require_spatial=require_spatial,
        min_spots=min_spots,
        logged=logged,
    )


def read_slides(
    paths: Sequence[str | Path],
    keys: SlideKeys = SlideKeys(),
    *,
    require_spatial: bool = True,
    min_spots: int = 50,
) -> list[Slide]:
    """Read several slides: files, folders (all slides in them, sorted) and glob patterns.

    Slides are named by their file's stem; where two stems are equal, by ``folder/stem``.  The other
    arguments are those of :func:`read_slide`.

    Raises:
        FileNotFoundError: if a path, folder or pattern gives no file.
        ValueError: if a file is given twice, or on what :func:`read_slide` refuses.
    """
    files = slide_files(paths)
    stems = [file.stem for file in files]
    names = [
        file.stem if stems.count(file.stem) == 1 else f"{file.resolve().parent.name}/{file.stem}"
        for file in files
    ]
    if len(set(names)) < len(names):
        names = [str(file.resolve()) for file in files]
    return [
        read_slide(file, keys, require_spatial=require_spatial, min_spots=min_spots, name=name)
        for file, name in zip(files, names, strict=True)
    ]


def slide_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files of a list of files, folders (slides in them, sorted) and glob patterns.

    Raises:
        FileNotFoundError: if an entry gives no file.
        ValueError: if a file is given twice.
    """
    if isinstance(paths, str | Path):
        raise UserError(f"paths must be a list, got the single path {str(paths)!r}")
    files: list[Path] = []
    for entry in map(Path, paths):
        if entry.is_dir():
            found = sorted(path for path in entry.iterdir() if path.suffix.lower() in READERS)
        elif entry.exists():
            found = [entry]
        else:
            found = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
        if not found:
            raise MissingFile(f"{entry}: no such file, or no {' or '.join(READERS)} file there")
        files += found
    if not files:
        raise MissingFile("paths is empty: no slide was given")
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"{file} is given twice in paths")
        seen.add(file.resolve())
    return files


Source: TypeAlias = AnnData | Slide | str | Path
"""A slide, an AnnData object, or a file, folder or glob pattern."""


def as_slides(sources: Source | Sequence[Source], keys: SlideKeys, role: str) -> list[Slide]:
    """Slides with coordinates from one source or several; AnnData objects are named by ``role``.

    Raises:
        FileNotFoundError: if a path or pattern gives no file.
        ValueError: on a slide that cannot be used.
    """
    several = [sources] if isinstance(sources, Source) else sources
    slides: list[Slide] = []
    for number, source in enumerate(several):
        if isinstance(source, Slide):
            slides.append(source)
        elif isinstance(source, AnnData):
            slides.append(Slide.from_anndata(source, keys, name=f"{role}_{number}"))
        else:
            slides += read_slides([source], keys)
    return slides
