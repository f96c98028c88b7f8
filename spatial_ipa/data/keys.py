"""Where in a file a slide is found, and what of it is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from common.errors import UserError

X, RAW = "X", "raw.X"
"""What the matrices are called that are not among ``layers``: X, and that of AnnData.raw."""
VAR_NAMES = "var_names"
"""What the index of ``var`` is called where columns of it can be named."""
ONE_SECTION = "one"
"""The ``section_key`` of a source whose rows all lie in one frame, whatever its columns say."""


def read_null(settings: object) -> None:
    """Turn the text ``None`` in a field of frozen settings into None.

    jsonargparse gives that text for ``--a.b=null`` where ``a`` is a dataclass inside a class.
    """
    for name, value in vars(settings).items():
        if value == "None":
            object.__setattr__(settings, name, None)


@dataclass(frozen=True)
class SlideKeys:
    """Names of what is read, and what of it.

    Attributes:
        layer: layer of the counts; ``X`` when null, ``raw.X`` for ``AnnData.raw`` (own genes).
        gene_key: column of ``var`` (for ``raw.X``, of ``raw.var``) with the gene names; its index
            when null or ``var_names``, which also insists on names that are numbers.
        spatial_key: key of the (n, 2) coordinates in ``obsm``, or two columns of ``obs``, x first,
            as ``x_centroid,y_centroid``; ``spatial`` when null.  Not looked at for cells without
            coordinates.
        section_key: column of ``obs`` (or several, joined by commas) whose values are sections, to
            be read as a slide each; ``one`` if all rows lie in one frame, whatever the columns say.
            When null, a source that holds several sections is refused.
        values: whether the matrix holds ``counts`` or log-normalised values (``logged``); found out
            when null (:mod:`spatial_ipa.data.values`).
        keep_off_tissue: keep spots beside the tissue (``obs["in_tissue"]``).
        drop_coincident: leave out spots that share their position with another, such as cells
            without position that all lie at (0, 0), instead of refusing the slide.

    Raises:
        ValueError: if ``values`` is neither.

    Example:
        >>> import spatial_ipa
        >>> spatial_ipa.SlideKeys(layer="counts").coordinates
        'spatial'
    """

    layer: str | None = None
    gene_key: str | None = None
    spatial_key: str | None = None
    section_key: str | None = None
    values: str | None = None  # a Literal would refuse the text None
    keep_off_tissue: bool = False
    drop_coincident: bool = False

    def __post_init__(self) -> None:
        read_null(self)
        if self.values not in (None, "counts", "logged"):
            raise UserError(f"values must be counts, logged or null, got {self.values!r}")

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

    @property
    def section_columns(self) -> list[str]:
        """The columns of ``obs`` to split by; none where nothing is to be split."""
        if self.section_key in (None, ONE_SECTION):
            return []
        return [name.strip() for name in str(self.section_key).split(",")]

    def or_else(self, other: SlideKeys) -> SlideKeys:
        """These names, and those of ``other`` where these are null.

        Sections and what values are belong to each kind of source, and are not taken over.
        """
        names = ("layer", "gene_key", "spatial_key")
        absent = [name for name in names if getattr(self, name) is None]
        return replace(self, **{name: getattr(other, name) for name in absent})

    def flags(self, option: str) -> list[str]:
        """The arguments of a command whose ``option``, such as ``data.init_args.keys``, it is."""
        return [f"--{option}.{f.name}={_spelt(getattr(self, f.name))}" for f in fields(self)]


def _spelt(value: str | bool | None) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value or "null"
