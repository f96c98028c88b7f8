"""Slides from ``.h5ad`` files.

A file is checked before anything is computed from it; what cannot be used is refused by name, what
is changed (duplicate genes summed, empty spots dropped) is warned about with its count.  Read are
the names of spots and genes, ``obs["patient"]``, one matrix (``X``, a layer or ``raw.X``) and, for
slides, one entry of ``obsm`` and what tells sections apart (``obs["library_id"]``, the keys of
``uns["spatial"]``); everything else in the file is never touched.  Nothing is ever unpickled.

Gene panels over several slides are in :mod:`spatial_ipa.data.panels`, writing in
:mod:`spatial_ipa.data.h5ad`; both are importable from here.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import read_elem

from common.errors import MissingFile, UserError
from spatial_ipa.data.h5ad import column_names, open_h5ad, read_column, row_names, write_prediction
from spatial_ipa.data.panels import MIN_GENES, gene_panel, reindex, select_genes
from spatial_ipa.data.slide import Slide, canonical_csr

__all__ = [
    "MIN_GENES",
    "Slide",
    "gene_panel",
    "read_slide",
    "read_slides",
    "reindex",
    "select_genes",
    "slide_files",
    "write_prediction",
]

# What a layer is called that is not one of ``layers``: X, and that of AnnData.raw (own genes).
X, RAW = "X", "raw.X"
VAR_NAMES = "var_names"  # what the index of var is called where columns of it can be named
LOGGED_BELOW = 20.0  # log1p of 4.8e8; raw or depth-normalised counts with decimals go far beyond


def read_slide(
    path: str | Path,
    *,
    require_spatial: bool,
    spatial_key: str = "spatial",
    layer: str | None = None,
    gene_key: str | None = None,
    min_spots: int = 50,
    logged: bool | None = None,
    name: str | None = None,
) -> Slide:
    """Read and check one ``.h5ad`` file.

    Args:
        path: the file.
        require_spatial: True for a slide to train or validate on: coordinates must be there and
            spots without counts are dropped, with a warning.  False for prediction: coordinates
            are not looked at, every row is kept and ``Slide.is_empty`` flags the empty ones.
        spatial_key: key of the (n, 2) coordinates in ``obsm``.
        layer: read ``layers[layer]``; None or ``"X"``: ``X``; ``"raw.X"``: the matrix of
            ``AnnData.raw``, with the genes of ``raw.var``.
        gene_key: column of ``var`` (for ``raw.X``, of ``raw.var``) with the gene names; None or
            ``"var_names"``: its index.
        min_spots: fewest spots or cells accepted.
        logged: whether the values are log-normalised; None decides: values that are not all
            integers and stay below 20 are.
        name: name of the slide; the file's stem if None.

    Returns:
        The slide.  Gene names are stripped of surrounding white space, and counts of genes that
        share a name are summed, with a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable ``.h5ad``, its matrix, names or coordinates cannot
            be used, or a slide holds several sections or patients; the message names the file and
            says what to do.
    """
    path = Path(path)
    parts = _read_parts(path, layer, gene_key, spatial_key if require_spatial else None)
    xy, where = parts.xy, f"{path}: {parts.where}"
    counts = _checked_counts(parts.matrix, where, parts.others)
    if logged is None:
        logged = _looks_logged(counts)
        if logged:
            warnings.warn(
                f"{where} is taken as log-normalised: not all values are whole numbers and none "
                f"reaches {LOGGED_BELOW:g} (maximum {counts.data.max():.3g}); if they are counts, "
                f"as after removal of ambient RNA, round them; {parts.others}",
                stacklevel=2,
            )
    genes, counts = _unique_genes(parts.genes, counts, path, logged)
    _refuse_several_sections(parts.sections, path)
    patient = _patient_of(parts.patient, path, one_only=require_spatial)
    obs_names = np.asarray(parts.obs_names, dtype=object)
    if require_spatial:
        keep = np.diff(counts.indptr) > 0
        if not keep.all():
            warnings.warn(
                f"{path}: dropped {int((~keep).sum())} of {keep.size} spots without any count",
                stacklevel=2,
            )
            counts, obs_names = counts[keep], obs_names[keep]
        xy = _checked_xy(xy, path, spatial_key, keep.size)[keep]
        if len(xy) and not np.ptp(xy, axis=0).any():
            raise UserError(f"{path}: obsm[{spatial_key!r}] has all spots at one position {xy[0]}")
    if counts.shape[0] < min_spots:
        raise UserError(
            f"{path}: {counts.shape[0]} spots with counts, at least {min_spots} are needed; leave "
            "this file out"
        )
    return Slide.build(
        path.stem if name is None else name,
        counts,
        genes,
        xy,
        obs_names=obs_names.tolist(),
        is_logged=logged,
        patient=patient,
    )


def read_slides(
    paths: Sequence[str | Path],
    *,
    require_spatial: bool = True,
    spatial_key: str = "spatial",
    layer: str | None = None,
    gene_key: str | None = None,
    min_spots: int = 50,
) -> list[Slide]:
    """Read several slides: files, folders (all ``*.h5ad`` in them, sorted) and glob patterns.

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
        names = [str(file.resolve().with_suffix("")) for file in files]
    return [
        read_slide(
            file,
            require_spatial=require_spatial,
            spatial_key=spatial_key,
            layer=layer,
            gene_key=gene_key,
            min_spots=min_spots,
            name=name,
        )
        for file, name in zip(files, names, strict=True)
    ]


class _Parts(NamedTuple):
    """What is read of a file, as stored but for gene names, which are stripped."""

    matrix: Any
    genes: list[str]
    obs_names: list[str]
    patient: Any  # obs["patient"], None without it
    sections: list[str]  # empty where the file does not say, and without a key of the coordinates
    xy: Any  # None without a key of the coordinates
    where: str  # what to call the matrix in a message
    others: str  # which other matrices there are, for a message about this one


def _location(layer: str | None) -> tuple[str, str, str]:
    """Where matrix and genes are in the file, and what to call the matrix in a message."""
    if layer in (None, X):
        return "X", "var", "X"
    if layer == RAW:
        return "raw/X", "raw/var", RAW
    return f"layers/{layer}", "var", f"layers[{layer!r}]"


def _other_matrices(file: h5py.File, layer: str | None) -> str:
    """What else the file could be read from, for messages about a matrix that is not right."""
    names = [name for name in (X, RAW) if _location(name)[0] in file]
    names += sorted(file.get("layers", ()))
    names = [name for name in names if name != (layer or X)]
    return f"other values of layer: {', '.join(names) or 'none'}"


def _read_parts(
    path: Path, layer: str | None, gene_key: str | None, spatial_key: str | None
) -> _Parts:
    """The parts of a file that are used, of matching shapes."""
    with open_h5ad(path) as file:
        others = _other_matrices(file, layer)
        matrix_at, genes_at, where = _location(layer)
        if matrix_at not in file or genes_at not in file:
            raise UserError(f"{path}: has no {where}; {others}")
        var, var_at = file[genes_at], genes_at.replace("/", ".")
        if not isinstance(var, h5py.Group):
            raise UserError(
                f"{path}: {var_at} is one array, as anndata before 0.7 wrote it; read the file "
                "with the tool that made it and save it with write_h5ad"
            )
        if spatial_key is not None and f"obsm/{spatial_key}" not in file:
            keys = sorted(file["obsm"]) if "obsm" in file else []
            raise UserError(
                f"{path}: coordinates obsm[{spatial_key!r}] are missing (obsm has {keys}); name "
                "the right key with spatial_key, or leave the file out of training"
            )
        column = None if gene_key == VAR_NAMES else gene_key
        if column is not None and column not in var:
            raise UserError(
                f"{path}: {var_at} has no column {column!r} to take gene names from (gene_key); it "
                f"has {', '.join(column_names(var)) or 'none'}"
            )
        try:
            # Other columns of obs and var are left alone: they may be anything.
            obs_names = row_names(file["obs"])
            names = row_names(var) if column is None else read_column(var, column)
            patient = read_column(file["obs"], "patient")
            sections = [] if spatial_key is None else _sections_of(file)
            matrix = read_elem(file[matrix_at])
            xy = None if spatial_key is None else read_elem(file[f"obsm/{spatial_key}"])
        except Exception as error:  # h5py and anndata raise errors of all kinds here
            raise UserError(
                f"{path}: cannot be read: truncated, damaged, or written by a newer anndata than "
                f"the one installed here ({error})"
            ) from error
    names_at = f"{var_at}_names" if column is None else f"{var_at}[{column!r}]"
    genes = _gene_names(names, path, names_at)
    shape = np.shape(matrix)
    if len(shape) != 2:
        raise UserError(f"{path}: {where} must be (spots, genes), got shape {shape}")
    if shape != (len(obs_names), len(genes)):
        raise UserError(
            f"{path}: {where} has shape {shape}, but there are {len(obs_names)} obs_names and "
            f"{len(genes)} {names_at}"
        )
    if 0 in shape:
        raise UserError(f"{path}: empty, {where} has shape {shape}")
    return _Parts(matrix, genes, obs_names, patient, sections, xy, where, others)


def _gene_names(column: Any, path: Path, where: str) -> list[str]:
    """Names without surrounding white space, of a list, an array or a column as pandas has it."""
    missing = column.isna() if hasattr(column, "isna") else [False] * len(column)
    genes = ["" if no else str(name).strip() for name, no in zip(column, missing, strict=True)]
    if "" in genes:
        raise UserError(f"{path}: {genes.count('')} of {len(genes)} {where} are empty")
    return genes


def _checked_counts(matrix: Any, where: str, others: str) -> sp.csr_matrix:
    """(n, G) float32 canonical CSR of finite, non-negative values, not all zero."""
    dtype = getattr(matrix, "dtype", np.dtype(object))
    if dtype.kind not in "iuf":
        raise UserError(f"{where} must hold numbers, got dtype {dtype}; raw counts wanted")
    if sp.issparse(matrix):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise UserError(f"{where} is damaged: {error}") from error
    with np.errstate(over="ignore"):  # an overflow to float32 is reported as non-finite below
        counts = canonical_csr(matrix)
    if not np.isfinite(counts.data).all():
        bad = int((~np.isfinite(counts.data)).sum())
        raise UserError(f"{where} has {bad} values that are NaN, infinite or beyond float32")
    if counts.nnz == 0:
        raise UserError(f"{where} is zero everywhere; no spot has a count")
    if counts.data.min() < 0:
        raise UserError(
            f"{where} has negative values (minimum {counts.data.min():.4g}), as scaled data has; "
            f"raw counts wanted ({others})"
        )
    return counts


def _looks_logged(counts: sp.csr_matrix) -> bool:
    values = counts.data
    return bool(values.max() < LOGGED_BELOW and (values != np.floor(values)).any())


def _unique_genes(
    genes: list[str], counts: sp.csr_matrix, path: Path, logged: bool
) -> tuple[list[str], sp.csr_matrix]:
    """Sum the columns of genes that share a name, in the order of first appearance."""
    unique = list(dict.fromkeys(genes))
    extra = len(genes) - len(unique)
    if extra == 0:
        return genes, counts
    if logged:
        raise UserError(
            f"{path}: {extra} duplicate gene names in logged values, which cannot be summed; raw "
            "counts wanted, or unique names"
        )
    warnings.warn(
        f"{path}: {extra} duplicate gene names; counts of genes of one name were summed "
        f"({len(unique)} genes remain)",
        stacklevel=3,
    )
    column_of = {gene: column for column, gene in enumerate(unique)}
    target = [column_of[gene] for gene in genes]
    ones = np.ones(len(genes), dtype=np.float32)
    gather = sp.csr_matrix((ones, (np.arange(len(genes)), target)), (len(genes), len(unique)))
    return unique, counts @ gather


def _distinct(column: Any) -> list[str]:
    """The values of a stored column that are not missing, sorted."""
    known = column.dropna() if hasattr(column, "dropna") else column[column == column]
    return sorted({str(value) for value in known})


def _sections_of(file: h5py.File) -> list[str]:
    """The sections a file names: the values of ``obs["library_id"]``, else the images it holds.

    Squidpy takes the column for its ``library_key``; scanpy keeps the image of a section in
    ``uns["spatial"][library_id]``, beside which there may be other entries.
    """
    column = read_column(file["obs"], "library_id")
    if column is not None:
        return _distinct(column)
    held = file.get("uns/spatial")
    if not isinstance(held, h5py.Group):
        return []
    return sorted(
        name
        for name, entry in held.items()
        if isinstance(entry, h5py.Group) and {"images", "scalefactors"} & set(entry)
    )


def _refuse_several_sections(sections: list[str], path: Path) -> None:
    """Coordinates of sections lie on top of each other; neighbours across them would be none."""
    if len(sections) > 1:
        raise UserError(
            f"{path}: holds {len(sections)} sections ({', '.join(sections[:5])}), by "
            "obs['library_id'] or uns['spatial']; write one file per section, or, if all lie in "
            "one frame, set obs['library_id'] to one value"
        )


def _patient_of(column: Any, path: Path, *, one_only: bool) -> str | None:
    if column is None:
        return None
    patients = _distinct(column)
    if len(patients) > 1 and one_only:
        raise UserError(
            f"{path}: obs['patient'] names {len(patients)} patients ({', '.join(patients[:5])}); "
            "write one file per slide, so that splits can keep patients apart"
        )
    return patients[0] if len(patients) == 1 else None


def _checked_xy(xy: Any, path: Path, key: str, num_rows: int) -> np.ndarray:
    """(n, 2) float32, finite."""
    where = f"{path}: obsm[{key!r}]"
    array = np.asarray(xy)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where} must hold numbers, got dtype {array.dtype}")
    if array.shape != (num_rows, 2):
        hint = ""
        if array.ndim == 2 and array.shape[1] == 3:
            hint = "; three columns are ambiguous (a volume? a section index?): store the two "
            hint += "in-plane coordinates of one section"
        raise UserError(f"{where} must have shape ({num_rows}, 2), got {array.shape}{hint}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = int((~np.isfinite(array)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{where} has {bad} spots with NaN or infinite coordinates; drop them from the file"
        )
    return array


def slide_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files of a list of files, folders (their ``*.h5ad``, sorted) and glob patterns.

    Raises:
        FileNotFoundError: if an entry gives no file.
        ValueError: if a file is given twice.
    """
    if isinstance(paths, str | Path):
        raise UserError(f"paths must be a list, got the single path {str(paths)!r}")
    files: list[Path] = []
    for entry in map(Path, paths):
        if entry.is_dir():
            found = sorted(entry.glob("*.h5ad"))
        elif entry.exists():
            found = [entry]
        else:
            found = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
        if not found:
            raise MissingFile(f"{entry}: no such file, or no .h5ad file there")
        files += found
    if not files:
        raise MissingFile("paths is empty: no slide was given")
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"{file} is given twice in paths")
        seen.add(file.resolve())
    return files
