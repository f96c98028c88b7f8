"""Where in a file a slide is found."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

X, RAW = "X", "raw.X"
"""What the matrices are called that are not among ``layers``: X, and that of AnnData.raw."""
VAR_NAMES = "var_names"
"""What the index of ``var`` is called where columns of it can be named."""


def read_null(settings: object) -> None:
    """Turn the text ``None`` in a field of frozen settings into None.

    jsonargparse gives that text for ``--a.b=null`` where ``a`` is a dataclass inside a class.
    """
    for name, value in vars(settings).items():
        if value == "None":
            object.__setattr__(settings, name, None)


@dataclass(frozen=True)
class SlideKeys:
    """Names of what is read.

    Attributes:
        layer: layer of the counts; ``X`` when null, ``raw.X`` for ``AnnData.raw`` (own genes).
        gene_key: column of ``var`` (for ``raw.X``, of ``raw.var``) with the gene names; its index
            when null or ``var_names``.
        spatial_key: key of the (n, 2) coordinates in ``obsm``; ``spatial`` when null.  Not looked
            at for cells without coordinates.

    Example:
        >>> import spatial_ipa
        >>> spatial_ipa.SlideKeys(layer="counts").coordinates
        'spatial'
    """

    layer: str | None = None
    gene_key: str | None = None
    spatial_key: str | None = None

    def __post_init__(self) -> None:
        read_null(self)

    @property
    def coordinates(self) -> str:
        """The key of the coordinates."""
        return self.spatial_key or "spatial"

    @property
    def gene_column(self) -> str | None:
        """The column of ``var`` with the gene names; None for its index."""
        return None if self.gene_key == VAR_NAMES else self.gene_key

    @property
    def matrix_name(self) -> str:
        """What to call the matrix in a message."""
        if self.layer in (None, X):
            return X
        return RAW if self.layer == RAW else f"layers[{self.layer!r}]"

    def or_else(self, other: SlideKeys) -> SlideKeys:
        """These names, and those of ``other`` where these are null."""
        absent = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(other, name) for name in absent})

    def flags(self, option: str) -> list[str]:
        """The arguments of a command whose ``option``, such as ``data.init_args.keys``, it is."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return [f"--{option}.{name}={value or 'null'}" for name, value in values.items()]
