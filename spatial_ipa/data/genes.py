"""Names of genes, and features of a matrix that are no genes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from common.errors import UserError

_KIND_COLUMNS = {"featuretypes", "featuretype", "modality", "featureclass", "featurebiotype"}
_GENE_KINDS = {
    "geneexpression", "gene", "genes", "rna", "gex", "mrna", "transcript", "transcripts",
    "transcriptomics", "transcriptome", "generna", "rnacounts",
}  # fmt: skip
# Columns of these names may mean something else, unless all values are known.
_LOOSE_COLUMNS = {"type", "types", "assay", "omics", "omic", "kind"}
_OTHER_KINDS = {
    "antibodycapture", "antibody", "antibodies", "protein", "proteins", "adt", "hto", "peaks",
    "peak", "atac", "crisprguidecapture", "multiplexingcapture", "spikein", "blank", "control",
    "negativecontrolprobe", "negativecontrolcodeword", "negativecontrol", "custom",
}  # fmt: skip
_ANTIBODY = re.compile(r".+[_-]TotalSeq[A-D]?|.+[_-]Total[A-D]|(ADT|HTO)[_-].+|.+[_-]ADT")
# Negative controls and blanks as Xenium, MERSCOPE and CosMx name them among their genes.
_CONTROL = re.compile(
    r"(NegControl(Probe|Codeword)|UnassignedCodeword|DeprecatedCodeword|Intergenic_Region)[_-]\w+"
    r"|(NegPrb|SystemControl|FalseCode)\d+|(BLANK|Blank)[_-]\d+|Negative(Probe)?[_-]?\d+",
)


class NamedColumns(Protocol):
    """What is needed of ``var``."""

    def columns(self) -> list[str]: ...

    def column(self, key: str) -> Any: ...


def gene_names(column: Any, source: str, where: str) -> list[str]:
    """Names without surrounding white space, of a list, an array or a column as pandas has it."""
    missing = column.isna() if hasattr(column, "isna") else [False] * len(column)
    genes = ["" if no else str(name).strip() for name, no in zip(column, missing, strict=True)]
    if "" in genes:
        raise UserError(f"{source}: {genes.count('')} of {len(genes)} {where} are empty")
    return genes


def refuse_row_numbers(genes: Sequence[str], var: NamedColumns, source: str, where: str) -> None:
    """Refuse row numbers in the place of gene names, with the columns that hold names.

    Whole numbers are row numbers if they run without a gap, in any order, or rise and leave a
    column of names; else they may be Entrez ids, which rise at most by chance.

    Raises:
        ValueError: if so.
    """
    if not genes or not all(re.fullmatch(r"\d{1,9}(\.0*)?", gene) for gene in genes):
        return
    numbers = np.array([int(float(gene)) for gene in genes])
    columns = _name_columns(var, len(genes))
    unbroken = len(np.unique(numbers)) == len(numbers) == numbers.max() - numbers.min() + 1
    rising = bool((np.diff(numbers) > 0).all()) and numbers.max() < 100_000
    if not unbroken and not (rising and columns):
        return
    offered = (
        f"names are in {', '.join(columns)}: gene_key={columns[0]}"
        if columns
        else "var has no column of names: set var_names in the file"
    )
    raise UserError(
        f"{source}: {where} are row numbers ({', '.join(genes[:3])}, ...), which mean other genes "
        f"in each file; {offered} (gene_key=var_names to take the numbers for names)"
    )


def feature_types(var: NamedColumns) -> tuple[str, list[str]] | None:
    """The column of ``var`` that tells genes from other features, and its values, if one does."""
    for name in var.columns():
        plain = _plain(name)
        if plain not in _KIND_COLUMNS | _LOOSE_COLUMNS:
            continue
        try:
            values = [str(value) for value in var.column(name)]
        except UserError:
            continue  # of a kind that cannot be read
        kinds = {_plain(value) for value in values}
        known = plain in _KIND_COLUMNS or kinds <= _GENE_KINDS | _OTHER_KINDS
        if kinds & _GENE_KINDS and known:
            return name, values
    return None


def gene_features(genes: Sequence[str], kinds: tuple[str, list[str]] | None) -> np.ndarray:
    """(G,) bool, the features that :func:`genes_only` keeps of G names and their kinds."""
    keep = np.array([not no for no in _why_left_out(genes, kinds)], dtype=bool)
    return keep if keep.any() else np.ones_like(keep)


def genes_only(
    genes: list[str], counts: sp.csr_matrix, kinds: tuple[str, list[str]] | None
) -> tuple[list[str], sp.csr_matrix, str]:
    """Without features of other kinds (antibodies, guides, peaks, negative controls).

    Args:
        genes: G names.
        counts: (n, G).
        kinds: of :func:`feature_types`.

    Returns:
        Names, columns, and what to say about those left out; "" if none was.
    """
    keep = gene_features(genes, kinds)
    if keep.all():
        return genes, counts, ""
    left_out = sorted({no for no in _why_left_out(genes, kinds) if no})
    at = "" if kinds is None else f" (var[{kinds[0]!r}])"
    said = f"left out {int((~keep).sum())} of {len(genes)} features: {', '.join(left_out)}{at}"
    kept = [gene for gene, yes in zip(genes, keep, strict=True) if yes]
    return kept, sp.csr_matrix(counts[:, np.flatnonzero(keep)]), said


def unique_genes(
    genes: list[str], counts: sp.csr_matrix, source: str, logged: bool
) -> tuple[list[str], sp.csr_matrix, str]:
    """Sum the columns of genes that share a name, in the order of first appearance.

    Returns:
        Names, columns, and what to say about it; "" if all are unique.

    Raises:
        ValueError: if values are logged, which cannot be summed.
    """
    unique = list(dict.fromkeys(genes))
    extra = len(genes) - len(unique)
    if extra == 0:
        return genes, counts, ""
    if logged:
        raise UserError(
            f"{source}: {extra} duplicate gene names in logged values, which cannot be summed; raw "
            "counts wanted, or unique names"
        )
    column_of = {gene: column for column, gene in enumerate(unique)}
    target = [column_of[gene] for gene in genes]
    ones = np.ones(len(genes), dtype=np.float32)
    gather = sp.csr_matrix((ones, (np.arange(len(genes)), target)), (len(genes), len(unique)))
    said = f"{extra} duplicate gene names; counts of genes of one name were summed "
    return unique, counts @ gather, f"{said}({len(unique)} genes remain)"


def _why_left_out(genes: Sequence[str], kinds: tuple[str, list[str]] | None) -> list[str]:
    """What each feature is that is no gene; "" for genes."""
    why = [_told_by_name(gene) for gene in genes]
    if kinds is None:
        return why
    return [no or ("" if _is_gene(v) else v) for no, v in zip(why, kinds[1], strict=True)]


def _told_by_name(gene: str) -> str:
    """What a feature is that is no gene by its name; "" for a gene."""
    if _CONTROL.fullmatch(gene):
        return "negative control"
    return "antibody" if _ANTIBODY.fullmatch(gene) else ""


def _is_gene(value: str) -> bool:
    return _plain(value) in _GENE_KINDS


def _plain(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _name_columns(var: NamedColumns, num_genes: int) -> list[str]:
    """Columns of ``var`` with texts that differ from gene to gene, those of symbols first."""
    found = []
    for name in var.columns():
        try:
            values = [str(value) for value in var.column(name)]
        except UserError:
            continue  # of a kind that cannot be read
        letters = sum(bool(re.search("[A-Za-z]", value)) for value in values)
        if letters > 0.9 * num_genes and len(set(values)) > 0.8 * num_genes:
            found.append(name)
    symbols = ("symbol", "name", "feature", "gene")
    return sorted(
        found,
        key=lambda name: next(
            (i for i, word in enumerate(symbols) if word in name.lower()), len(symbols)
        ),
    )
