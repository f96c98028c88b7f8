"""PDB and mmCIF files, plain or gzip-compressed, to ensembles.

What a file holds that is not a plain chain of complete residues is handled, with a note in
``Ensemble.report``, or refused with file, model and residue in the message:

==============================================  ================================================
altlocs                                         highest occupancy, then first letter; one for
                                                all atoms of a residue, in all models
insertion codes                                 kept; residues stay in file order
N, CA or C missing, or not bonded in a residue  masked in that model
chain break                                     ``bonded`` is False there
modified residue (MSE, PCA, SEP, ...)           letter of its parent
other amino acid with N, CA and C               X
water, ion, sugar, nucleotide, cap, ligand      dropped
models of unequal length                        aligned on chain, number and insertion code
blank chain ID                                  named by the first free letter
model numbers                                   any; kept, unless one repeats
duplicate atom or residue, two sequences,       refused
NaN, file cut short, no protein, wrong suffix
==============================================  ================================================
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from common.errors import UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.arrange import NoteBook, arrange
from protein_cvae.io.build import build_ensemble
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.records import ModelRecords

_GZIP_MAGIC = b"\x1f\x8b"


def read_structure(
    path: str | Path,
    *,
    name: str | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
) -> Ensemble:
    """Read all models and all protein chains of one file.

    Args:
        path: a .pdb, .ent, .cif or .mmcif file, with or without .gz.
        name: name of the ensemble; the file's name without suffixes if None.
        min_models: fewest models accepted.
        max_residues: most residues accepted, over all chains; None for any number.

    Returns:
        The ensemble, float32 Å; ``Ensemble.select_chain("longest")`` gives one chain.  What was
        found and dealt with is in ``Ensemble.report``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as what its suffix says, or holds one of the defects
            that are refused; the message names file, model and residue and says what to do.
    """
    path = Path(path)
    kind = structure_format(path)
    text = _read_text(path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty; download or write it again")
    models = kind.parse(text, path)
    if not models:
        raise UserError(f"{path}: no protein: the atom records hold no numbered residue")
    numbers, repeated = _model_numbers(models)
    book = NoteBook(numbers)
    if repeated is not None:
        book.add("model numbers", "", f"{repeated} stands twice; numbered from 1 in file order")
        for model, number in zip(models, numbers, strict=True):
            model.number = number
    layout = arrange(models, path, book)
    return build_ensemble(
        layout,
        numbers,
        book,
        path=path,
        name=structure_name(path) if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
    )


def structure_name(path: Path) -> str:
    """The file's name without its suffix and .gz."""
    stem = path.name.removesuffix(".gz")
    return stem[: stem.rfind(".")] if "." in stem else stem


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise UserError(
            f"{path}: a folder; give a file, or a folder to find_ensembles or "
            "load_trajectory_folder"
        )
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        if data and not data.startswith(_GZIP_MAGIC):
            raise UserError(f"{path}: called .gz but not gzip-compressed; remove .gz from its name")
        try:
            data = gzip.decompress(data) if data else b""
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"{path}: the gzip stream is damaged or cut short ({error}); download it again"
            ) from None
    elif data.startswith(_GZIP_MAGIC):
        raise UserError(f"{path}: gzip-compressed but not called .gz; add .gz to its name")
    return data.decode("latin-1")  # never fails; names and numbers are ASCII in both formats


def _model_numbers(models: list[ModelRecords]) -> tuple[tuple[int, ...], int | None]:
    """Numbers of the models, 1, 2, ... if one repeats; and the one that does."""
    numbers = tuple(model.number for model in models)
    repeated = next((n for i, n in enumerate(numbers) if n in numbers[:i]), None)
    return (numbers if repeated is None else tuple(range(1, len(models) + 1))), repeated
