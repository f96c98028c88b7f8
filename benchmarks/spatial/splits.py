"""The slides that choices are made on, those that confirm them, and who trains for whom.

``docs/protocol.md`` says what may be done with which.  :data:`SPLITS` holds all by name,
:data:`CHOOSING`, :data:`CONFIRMATION` and :data:`SHIFTS` the names of each kind.  Slides a user
gives become a split of their own, :func:`own_split`.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shifts import Part

from common.errors import MissingFile, UserError


@dataclass(frozen=True)
class Fold:
    """One training: which slides train, which are scored.  Names are unique over all splits."""

    name: str
    train: tuple[Part, ...]
    test: tuple[Part, ...]


Folds = tuple[Fold, ...]


def _fold(name: str, train: Sequence[str], test: Sequence[str]) -> Fold:
    """A fold of whole files, given without suffix."""
    return Fold(
        name,
        tuple(Part(f"{path}.h5ad") for path in train),
        tuple(Part(f"{path}.h5ad") for path in test),
    )


def _leave_one_out(folder: str, slides: Sequence[str]) -> Folds:
    paths = [f"{folder}/{s}" for s in slides]
    return tuple(
        _fold(s, [p for p in paths if p != path], [path])
        for s, path in zip(slides, paths, strict=True)
    )


def _sections(letter: str) -> list[str]:
    return [f"{letter}{i}" for i in range(1, 4 if letter in "EF" else 7)]


def _patient(letter: str) -> Folds:
    return _leave_one_out("her2st", _sections(letter))


def _synovium(donor: str) -> Folds:
    sections = [f"ra_synovium/{donor}_{i}" for i in range(1, 5)]
    return (_fold(f"{donor}_24", sections[::2], sections[1::2]),)


def _halves(path: str) -> Folds:
    """Each half of a slide from the other."""
    low, high = (Part(f"{path}.h5ad", region) for region in ("low", "high"))
    return (Fold(high.name, (low,), (high,)), Fold(low.name, (high,), (low,)))


_CHOOSING: dict[str, Folds] = {
    "her2st_A": _patient("A"),
    "dlpfc": (
        _fold("151675", ["dlpfc/151673"], ["dlpfc/151675"]),
        _fold("151673", ["dlpfc/151675"], ["dlpfc/151673"]),
    ),
    "seqfish": (_fold("embryo2", ["seqfish_embryo/embryo1"], ["seqfish_embryo/embryo2"]),),
    "starmap": (_fold("BZ9", ["starmap_mpfc/BZ5"], ["starmap_mpfc/BZ9"]),),
    # Section 2 would be the validation slide; nothing is selected here, so it is left unused.
    "ra4": (
        _fold(
            "RA4_45",
            ["ra_synovium/RA4_1", "ra_synovium/RA4_3"],
            ["ra_synovium/RA4_4", "ra_synovium/RA4_5"],
        ),
    ),
}

_MERFISH = "merfish_hypothalamus/A1_bregma"
_CONFIRMATION: dict[str, Folds] = {
    **{f"her2st_{letter}": _patient(letter) for letter in "BCDEF"},
    "stahl": _leave_one_out("stahl_breast", [f"layer{i}" for i in range(1, 5)]),
    **{f"synovium_{donor}": _synovium(donor) for donor in ("RA1", "RA3", "RA6")},
    "olfactory_halves": _halves("mouse_olfactory_bulb/Rep11"),
    "merfish": (_fold("m0.29", [f"{_MERFISH}_m0.09"], [f"{_MERFISH}_m0.29"]),),
    "slideseq_halves": _halves("slideseq_cerebellum/Puck_180819_11"),
}


def _each(parts: tuple[Part, ...], **change: object) -> tuple[Part, ...]:
    return tuple(replace(part, **change) for part in parts)


def _alternate(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Half of each slide, low and high in turn: no slide is whole, both halves are seen."""
    return tuple(replace(part, region="high" if i % 2 else "low") for i, part in enumerate(parts))


_CHANGES: dict[str, Callable[[Fold], Fold]] = {
    # The test slide is four times shallower than those trained on, or four times deeper.
    "shallow_test": lambda f: replace(f, test=_each(f.test, depth=0.25)),
    "shallow_train": lambda f: replace(f, train=_each(f.train, depth=0.25)),
    # Half a section from whole ones, and a whole one from halves.
    "half_test": lambda f: replace(f, test=_each(f.test, region="high")),
    "half_train": lambda f: replace(f, train=_alternate(f.train)),
    # A dissociated sample of part of the tissue, without and with ambient RNA.
    "dissociated": lambda f: replace(f, test=_each(f.test, region="patch", shuffled=True)),
    "ambient": lambda f: replace(f, test=_each(f.test, region="patch", mixed=0.2, shuffled=True)),
}


def _shifted(kind: str, change: Callable[[Fold], Fold], bases: Sequence[Fold]) -> Folds:
    return tuple(replace(change(base), name=f"{kind}_{base.name}") for base in bases)


def _one(split: Folds, name: str) -> Fold:
    return next(fold for fold in split if fold.name == name)


_SHIFTED_BASES = (
    _one(_CONFIRMATION["her2st_D"], "D3"),
    _one(_CONFIRMATION["her2st_E"], "E2"),
    _one(_CONFIRMATION["stahl"], "layer2"),
    *_CONFIRMATION["synovium_RA3"],
)
_TRIAL_BASES = (
    _one(_CHOOSING["her2st_A"], "A3"),
    *_CHOOSING["seqfish"],
    *_CHOOSING["ra4"],
)

_TRIALS = {
    f"trial_{kind}": _shifted(f"trial_{kind}", change, _TRIAL_BASES)
    for kind, change in _CHANGES.items()
}
_SHIFTS: dict[str, Folds] = {
    **{
        f"shift_{kind}": _shifted(f"shift_{kind}", change, _SHIFTED_BASES)
        for kind, change in _CHANGES.items()
    },
    # Sections of another patient: all of one train, all of the next are placed.
    "shift_patient": tuple(
        _fold(
            f"shift_patient_{one}{other}",
            [f"her2st/{s}" for s in _sections(one)],
            [f"her2st/{s}" for s in _sections(other)],
        )
        for one, other in zip("ABCDE", "BCDEF", strict=True)
    ),
}

SPLITS: dict[str, Folds] = {**_CHOOSING, **_TRIALS, **_CONFIRMATION, **_SHIFTS}
"""Folds by name of the split."""

CHOOSING, TRIALS = tuple(_CHOOSING), tuple(_TRIALS)
CONFIRMATION, SHIFTS = tuple(_CONFIRMATION), tuple(_SHIFTS)

GROUPS = {"choosing": CHOOSING, "trials": TRIALS, "confirmation": CONFIRMATION, "shifts": SHIFTS}
"""Names of splits by what they are for."""

TOGETHER = {
    "her2st B to F": tuple(f"her2st_{letter}" for letter in "BCDEF"),
    "synovium RA1, RA3, RA6": tuple(f"synovium_{donor}" for donor in ("RA1", "RA3", "RA6")),
}
"""Splits of one data set and one purpose, which a report also takes together."""


OWN = "own"
"""The split of a user's own slides."""


def split_names(given: Sequence[str]) -> list[str]:
    """Names of splits from names of splits and of groups, each once, in the order given.

    Raises:
        ValueError: on a name that is neither.
    """
    unknown = [name for name in given if name not in SPLITS and name not in GROUPS]
    if unknown:
        raise UserError(
            f"--splits {' '.join(unknown)}: neither a group ({', '.join(GROUPS)}) nor a split "
            f"({', '.join(SPLITS)})"
        )
    return list(dict.fromkeys(s for name in given for s in GROUPS.get(name, (name,))))


def chosen_splits(args: argparse.Namespace) -> dict[str, Folds]:
    """Folds by split: those of ``--slides``, else of ``--splits``; ``--folds`` leaves some out.

    Raises:
        ValueError: on an unknown name, or where figures would be made (by any command but
            ``report`` and ``splits``) of splits without choices and no ``--final``.
    """
    if args.slides:
        return {OWN: own_split(args.slides)}
    names = split_names(args.splits)
    kept = [name for name in names if name in (*CONFIRMATION, *SHIFTS)]
    if kept and args.command not in ("report", "splits") and not args.final:
        raise UserError(
            f"{', '.join(kept)}: no choice may be made on what these show (docs/protocol.md); "
            "--final runs them, once, when everything is chosen"
        )
    return {
        name: tuple(f for f in SPLITS[name] if not args.folds or f.name in args.folds)
        for name in names
    }


def own_split(given: Sequence[str]) -> Folds:
    """Folds of a user's own slides.

    Args:
        given: ``train=PATHS`` and ``test=PATHS`` for one fold, or ``each=PATHS`` to leave each
            slide out in turn; PATHS are files or glob patterns, joined by commas.

    Raises:
        FileNotFoundError: if a path or pattern gives no file.
        ValueError: on another key, a key that is missing or there twice, or a slide that would be
            trained on and scored.
    """
    paths: dict[str, list[str]] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or key not in ("train", "test", "each"):
            raise UserError(
                "--slides takes train=a.h5ad,b.h5ad test=c.h5ad, or each=a.h5ad,b.h5ad; "
                f"got {item!r}"
            )
        if key in paths:
            raise UserError(f"--slides has {key}= twice; join the files by commas")
        paths[key] = _files(text, item)
    if set(paths) not in ({"train", "test"}, {"each"}):
        raise UserError(
            f"--slides needs train= and test=, or each= alone; got {', '.join(sorted(paths))}"
        )
    if "each" in paths:
        every = paths["each"]
        if len(every) < 2:
            raise UserError(f"--slides each= needs two slides or more, got {len(every)}")
        pairs = [([p for p in every if p != path], [path]) for path in every]
    else:
        pairs = [(paths["train"], paths["test"])]
    return tuple(_own_fold(train, test) for train, test in pairs)


def _own_fold(train: list[str], test: list[str]) -> Fold:
    both = sorted(set(train) & set(test))
    if both:
        raise UserError(f"--slides: {', '.join(both)} would be trained on and scored")
    names = [Path(path).stem for path in (*train, *test)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--slides: several files are called {', '.join(twice)}; rename them")
    # Results of one folder are told apart by the fold: the same stems may be other files.
    digest = hashlib.sha256("\n".join([*train, "", *test]).encode()).hexdigest()[:8]
    name = f"{'+'.join(Path(path).stem for path in test)}-{digest}"
    return Fold(name, tuple(map(Part, train)), tuple(map(Part, test)))


def _files(text: str, item: str) -> list[str]:
    """Absolute paths of files and patterns, each once."""
    found: list[str] = []
    for part in text.split(","):
        matches = sorted(glob.glob(part)) if part else []
        if not matches:
            raise MissingFile(f"--slides {item}: no file {part!r}")
        found += [str(Path(match).resolve()) for match in matches]
    return list(dict.fromkeys(found))
