"""The parts of a slide in an AnnData object, which is never changed."""

from __future__ import annotations

from anndata import AnnData

from common.errors import UserError
from spatial_ipa.data.checks import SlideParts, check_shape, distinct, gene_names
from spatial_ipa.data.keys import RAW, SlideKeys, X


def parts_of_anndata(adata: AnnData, source: str, keys: SlideKeys, *, with_xy: bool) -> SlideParts:
    """What is used of an AnnData object.

    Args:
        adata: the object; backed ones are read.
        source: what to call it in messages.
        keys: where to look.
        with_xy: take coordinates, and what tells sections apart.

    Raises:
        ValueError: if a part is missing or shapes disagree.
    """
    others = _other_matrices(adata, keys)
    matrix, var, var_at = None, adata.var, "var"
    if keys.matrix_name == X:
        matrix = adata.X
    elif keys.layer == RAW:
        if adata.raw is not None:
            matrix, var, var_at = adata.raw.X, adata.raw.var, "raw.var"
    elif keys.layer in adata.layers:
        matrix = adata.layers[keys.layer]
    if matrix is None:
        raise UserError(f"{source}: has no {keys.matrix_name}; {others}")
    if getattr(adata, "isbacked", False):
        matrix = matrix[:]
    key, column = keys.coordinates, keys.gene_column
    if with_xy and key not in adata.obsm:
        raise UserError(
            f"{source}: coordinates obsm[{key!r}] are missing (obsm has {sorted(adata.obsm)}); "
            "name the right key with spatial_key, or leave the file out of training"
        )
    if column is not None and column not in var:
        raise UserError(
            f"{source}: {var_at} has no column {column!r} to take gene names from (gene_key); it "
            f"has {', '.join(map(str, var.columns)) or 'none'}"
        )
    names_at = f"{var_at}_names" if column is None else f"{var_at}[{column!r}]"
    parts = SlideParts(
        matrix,
        gene_names(list(var.index) if column is None else var[column], source, names_at),
        [str(name) for name in adata.obs_names],
        adata.obs.get("patient"),
        _sections_of(adata) if with_xy else [],
        adata.obsm[key] if with_xy else None,
        f"{source}: {keys.matrix_name}",
        others,
    )
    check_shape(parts._replace(where=keys.matrix_name), source, names_at)
    return parts


def _other_matrices(adata: AnnData, keys: SlideKeys) -> str:
    names = [name for name, there in ((X, adata.X), (RAW, adata.raw)) if there is not None]
    names += sorted(adata.layers)
    names = [name for name in names if name != (keys.layer or X)]
    return f"other values of layer: {', '.join(names) or 'none'}"


def _sections_of(adata: AnnData) -> list[str]:
    """As :func:`spatial_ipa.data.h5ad_reader.sections_of` tells sections apart in a file."""
    if "library_id" in adata.obs:
        return distinct(adata.obs["library_id"])
    held = adata.uns.get("spatial")
    if not isinstance(held, dict):
        return []
    return sorted(
        name
        for name, entry in held.items()
        if isinstance(entry, dict) and {"images", "scalefactors"} & set(entry)
    )
