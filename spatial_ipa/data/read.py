"""Slides from files and from AnnData objects in memory.

A source is checked before anything is computed from it (:mod:`spatial_ipa.data.checks`); what each
format reads of a file is said in its reader (:mod:`spatial_ipa.data.formats`).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from anndata import AnnData

from common.errors import MissingFile, UserError
from common.files.lists import one_or_several
from spatial_ipa.data.formats import READERS, is_source, is_streamable, reader_for
from spatial_ipa.data.in_memory import parts_of_anndata
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.slide import Slide, only_one
from spatial_ipa.data.stored_rows import FileStamp, StoredRows
from spatial_ipa.data.values import refuse_mixed_values

Paths: TypeAlias = Sequence[str | Path] | str | Path
"""Files, folders and glob patterns, one or several."""


def read_slide(
    path: str | Path,
    keys: SlideKeys = SlideKeys(),
    *,
    require_spatial: bool = True,
    min_spots: int = 50,
    logged: bool | None = None,
    name: str | None = None,
) -> Slide:
    """Read and check one file or store.

    Args:
        path: the file.
        keys: where in it matrix, gene names and coordinates are, and what of it is read.
        require_spatial: True for a slide to train or validate on: coordinates must be there and
            spots without counts, or beside the tissue, are dropped.  False for prediction:
            coordinates are not looked at and every row is kept; ``Slide.is_empty`` flags those
            without counts, and spots beside the tissue are taken to have none.
        min_spots: fewest spots or cells accepted.
        logged: whether the values are log-normalised; ``keys.values`` if None, which may leave it
            to :mod:`spatial_ipa.data.values`.
        name: name of the slide; the file's stem if None.

    Returns:
        The slide.  Gene names are stripped of surrounding white space, counts of genes that share
        a name are summed, and features that are no genes are left out.  ``Slide.notes``, which
        one warning shows, says what was left out, changed or decided.

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
    slides = _read(Path(path), keys, require_spatial, min_spots, logged, name)
    return only_one(slides, str(path))


def _read(
    path: Path,
    keys: SlideKeys,
    require_spatial: bool,
    min_spots: int,
    logged: bool | None = None,
    name: str | None = None,
    stream: bool = False,
) -> list[Slide]:
    """The slide of a file, or those of its sections; ``stream`` leaves counts in the file."""
    stamp = FileStamp.of(path) if stream else None
    parts = reader_for(path)(path, keys, with_xy=require_spatial)
    slides = Slide.all_from_parts(
        path.stem if name is None else name,
        str(path),
        parts,
        keys,
        require_spatial=require_spatial,
        min_spots=min_spots,
        logged=logged,
    )
    if stamp is None:
        return slides
    return [
        replace(
            slide,
            matrix=StoredRows.of(
                path, stamp, keys, parts, slide.rows, ~slide.is_empty, slide.genes
            ),
        )
        for slide in slides
    ]


def read_slides(
    paths: Paths,
    keys: SlideKeys = SlideKeys(),
    *,
    require_spatial: bool = True,
    min_spots: int = 50,
) -> list[Slide]:
    """Read several slides: files, folders (all slides in them, sorted) and glob patterns.

    Slides are named by their file's stem; where two stems are equal, by ``folder/stem``.  A file
    that ``keys.section_key`` splits gives a slide for each section, ``stem/section``.  The other
    arguments are those of :func:`read_slide`.

    Raises:
        FileNotFoundError: if a path, folder or pattern gives no file.
        ValueError: if a file is given twice, if some slides hold counts and others logarithms, or
            on what :func:`read_slide` refuses.
    """
    slides = [
        slide
        for _, group in read_by_file(
            paths, keys, require_spatial=require_spatial, min_spots=min_spots
        )
        for slide in group
    ]
    refuse_mixed_values(slides)
    return slides


def read_by_file(
    paths: Paths,
    keys: SlideKeys = SlideKeys(),
    *,
    require_spatial: bool = True,
    min_spots: int = 50,
    stream: bool = False,
) -> list[tuple[Path, list[Slide]]]:
    """Each file of :func:`slide_files` with its slides, named as :func:`read_slides` does.

    With ``stream`` the counts of those that :func:`is_streamable` stay in their files
    (:mod:`spatial_ipa.data.stored_rows`) once each has been read and checked.
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
        (
            file,
            _read(
                file,
                keys,
                require_spatial,
                min_spots,
                name=name,
                stream=stream and is_streamable(file),
            ),
        )
        for file, name in zip(files, names, strict=True)
    ]


def slide_files(paths: Paths) -> list[Path]:
    """The files of a list of files, folders (slides in them, sorted) and glob patterns, or of one.

    Companions that macOS leaves beside files (``._A.h5ad``) and other hidden files are passed over
    in folders and patterns.

    Raises:
        FileNotFoundError: if an entry gives no file.
        ValueError: if a file is given twice, or a folder may not be read.
    """
    files: list[Path] = []
    for entry in map(Path, one_or_several(paths)):
        try:
            found = _found(entry)
        except PermissionError as error:
            raise UserError(f"{entry}: may not be read by this user ({error.strerror})") from error
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


def _found(entry: Path) -> list[Path]:
    """The files of one entry."""
    if entry.is_dir() and reader_for(entry) is not READERS[".zarr"]:
        return sorted(path for path in entry.iterdir() if is_source(path))
    if entry.exists():
        return [entry]
    matches = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
    return [match for match in matches if not match.name.startswith("._")]


Source: TypeAlias = AnnData | Slide | str | Path
"""A slide, an AnnData object, or a file, folder or glob pattern."""


def as_slides(sources: Source | Sequence[Source], keys: SlideKeys, role: str) -> list[Slide]:
    """Slides with coordinates from one source or several; AnnData objects are named by ``role``.

    Raises:
        FileNotFoundError: if a path or pattern gives no file.
        ValueError: on a slide that cannot be used.
    """
    several = one_or_several(sources)
    slides: list[Slide] = []
    for number, source in enumerate(several):
        if isinstance(source, Slide):
            slides.append(source)
        elif isinstance(source, AnnData):
            name = f"{role}_{number}"
            parts = parts_of_anndata(source, name, keys, with_xy=True)
            slides += Slide.all_from_parts(
                name, name, parts, keys, require_spatial=True, min_spots=50, logged=None
            )
        else:
            slides += read_slides(source, keys)
    refuse_mixed_values(slides)
    return slides
