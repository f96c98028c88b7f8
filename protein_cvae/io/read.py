"""PDB and mmCIF files, plain or gzip-compressed, to ensembles.

What a file holds that is not a plain chain of complete residues is handled, with a note in
``Ensemble.report``, or refused with file, model and residue, or line, in the message:

==============================================  ================================================
altlocs                                         highest occupancy, then first letter; one for
                                                all atoms of a residue, in all models
insertion codes                                 kept; residues stay in file order
N, CA or C missing, or not bonded in a residue  masked in that model
chain break                                     ``bonded`` is False there
chain cut by the periodic box                   made whole by box vectors, or refused
modified residue (MSE, PCA, SEP, ...)           letter of its parent
terminal residue of AMBER (NMET, CALA, NME)     its letter; X where a name is cut and tells no more
other amino acid with N, CA and C               X, whatever it is called, if it is bonded
water, ion, sugar, nucleotide, cap, ligand      dropped, whatever number it has
models of unequal length                        aligned on chain, number and insertion code
models with other numbers                       aligned by sequence; a residue that the first models
                                                lack is refused or left out
no or repeated chain ID                         divided at TER, segments, numbers that go back and
                                                C-termini; named by the first free letter
models                                          MODEL, or each END that atoms follow
model numbers                                   any; kept, unless one repeats
duplicate atom or residue, NaN, file cut        refused
short, no protein, wrong suffix, numbers beyond
their columns
==============================================  ================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from protein_cvae.ensemble import Ensemble, Note, ReadReport
from protein_cvae.io.arrange import arrange
from protein_cvae.io.build import build_ensemble
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.join import Part, join, numbered_alike
from protein_cvae.io.layout import Layout
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.opening import structure_bytes
from protein_cvae.io.records import ModelRecords, all_records
from protein_cvae.io.side_chains import side_chain_vectors


def read_structure(
    path: str | Path,
    *,
    name: str | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    drop: bool = False,
    side_chains: bool = False,
) -> Ensemble:
    """Read all models and all protein chains of one file.

    Args:
        path: a .pdb, .ent, .cif or .mmcif file, with or without .gz.
        name: name of the ensemble; the file's name without suffixes if None.
        min_models: fewest models accepted.
        max_residues: most residues accepted, over all chains; None for any number.
        drop: leave out residues that only some models have and that have no place in the numbers
            of the first; False refuses them.
        side_chains: read their heavy atoms, too (``Ensemble.side_chains``).

    Returns:
        The ensemble, float32 Å; ``Ensemble.select_chain("longest")`` gives one chain.  What was
        found and dealt with is in ``Ensemble.report``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as what its suffix says, or holds one of the defects
            that are refused; the message names file, model and residue and says what to do.
    """
    path = Path(path)
    return _ensemble(
        _models(path, side_chains),
        path,
        name=structure_name(path) if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
        drop=drop,
        side_chains=side_chains,
    )


def read_conformers(
    paths: Sequence[str | Path],
    *,
    name: str | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    drop: bool = False,
    side_chains: bool = False,
) -> Ensemble:
    """Read several files of one protein as one ensemble: all models of the first, the second, ...

    Args:
        paths: as of :func:`read_structure`; at least one.
        name: name of the ensemble; that of the folder of the first file if None.
        min_models: fewest models accepted, over all files.
        max_residues: most residues accepted, over all chains; None for any number.
        drop: see there.
        side_chains: see there.

    Returns:
        The ensemble, its models numbered from 1; which file is which is a note of its report.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_structure`; if the files do not hold one
            protein.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise UserError("conformers: expected at least one file, got none")
    models = [model for path in files for model in _models(path, side_chains)]
    for number, model in enumerate(models, start=1):
        model.number = number
    found = _ensemble(
        models,
        files[0],
        name=files[0].resolve().parent.name if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
        drop=drop,
        side_chains=side_chains,
    )
    notes = tuple(
        Note("conformer", model.number, "", f"is of {model.source.name}") for model in models
    )
    source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files"
    return replace(found, source=source, report=ReadReport(notes + found.report.notes))


def structure_name(path: Path) -> str:
    """The file's name without its suffix and .gz."""
    stem = path.name.removesuffix(".gz")
    return stem[: stem.rfind(".")] if "." in stem else stem


def _models(path: Path, side_chains: bool) -> list[ModelRecords]:
    """The models of a file that hold amino acids; of a file without any, all."""
    kind = structure_format(path)
    models = all_records(kind.parse(structure_bytes(path), path, side_chains), path)
    return [model for model in models if model.residues] or models


def _ensemble(
    models: list[ModelRecords],
    path: Path,
    *,
    name: str,
    min_models: int,
    max_residues: int | None,
    drop: bool,
    side_chains: bool,
) -> Ensemble:
    if not models:
        raise UserError(f"{path}: no protein: the atom records hold no numbered residue")
    numbers, repeated = _model_numbers(models)
    book = NoteBook(numbers)
    if repeated is not None:
        book.add("model numbers", "", f"{repeated} stands twice; numbered from 1 in file order")
        for model, number in zip(models, numbers, strict=True):
            model.number = number
    return build_ensemble(
        _arranged(models, drop, side_chains, book),
        numbers,
        book,
        path=path,
        name=name,
        min_models=min_models,
        max_residues=max_residues,
    )


def _arranged(
    models: list[ModelRecords], drop: bool, with_side_chains: bool, book: NoteBook
) -> Layout:
    """The residues of all models side by side, whatever numbers they have."""
    parts = []
    for group in numbered_alike(models):
        these = [models[m] for m in group]
        layout = arrange(these, these[0].source, book.of(group))
        if with_side_chains:
            layout.side = side_chain_vectors(layout, these, book.of(group))
        parts.append(Part(group, these[0], layout))
    return parts[0].layout if len(parts) == 1 else join(parts, drop, book)


def _model_numbers(models: list[ModelRecords]) -> tuple[tuple[int, ...], int | None]:
    """Numbers of the models, 1, 2, ... if one repeats; and the one that does."""
    numbers = tuple(model.number for model in models)
    repeated = next((n for i, n in enumerate(numbers) if n in numbers[:i]), None)
    return (numbers if repeated is None else tuple(range(1, len(models) + 1))), repeated
