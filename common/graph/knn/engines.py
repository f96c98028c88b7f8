"""The table of kNN engines.

A new one is a file beside this one, with its floor in ``pyproject.toml`` (contract ``knn``), a row
here, and its name in ``Engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from common.errors import MissingPackage, UserError
from common.graph.knn import approximate, exact, trees

# "auto" is not an engine: it chooses one.
Engine = Literal["auto", "exact", "kdtree", "cluster", "approximate"]


class Search(NamedTuple):
    """What an engine is asked; checked."""

    x: Tensor  # (N, D) float32, finite
    k: int
    graph_ptr: Tensor  # (B + 1,) int64, on the device of x
    recall: float
    seed: int


class EngineRow(NamedTuple):
    """One engine.

    Attributes:
        nearest: index (N, k) int64, nearest first, and valid (N, k) bool.
        least: smallest D.
        most: largest D, or None.
        on_cpu: computes on the CPU alone; the result is moved to the device of ``x``.
        exact: agrees with every other exact engine, ties included.
        package: the module that must be importable, or None.
        symbol: what is used of it: a release without is as good as none.
        install: how to get it.
    """

    nearest: Callable[[Search], tuple[Tensor, Tensor]]
    least: int
    most: int | None
    on_cpu: bool
    exact: bool
    package: str | None = None
    symbol: str = ""
    install: str = ""


ENGINES: Mapping[str, EngineRow] = {
    "exact": EngineRow(
        lambda s: exact.nearest(s.x, s.k, s.graph_ptr),
        least=0,
        most=None,
        on_cpu=False,
        exact=True,
    ),
    "kdtree": EngineRow(
        lambda s: trees.nearest(s.x, s.k, s.graph_ptr, "kdtree"),
        least=1,
        most=exact.DIFFERENCE_WIDTH,
        on_cpu=True,
        exact=True,
    ),
    "cluster": EngineRow(
        lambda s: trees.nearest(s.x, s.k, s.graph_ptr, "cluster"),
        least=1,
        most=exact.DIFFERENCE_WIDTH,
        on_cpu=True,
        exact=True,
        package="torch_cluster",
        symbol="knn",
        install=(
            "torch-cluster (python3 -m common.bootstrap setup --peers builds it); engine "
            "'kdtree' gives the same graph without"
        ),
    ),
    "approximate": EngineRow(
        lambda s: approximate.nearest(s.x, s.k, s.graph_ptr, s.recall, s.seed),
        least=1,
        most=None,
        on_cpu=True,
        exact=False,
        package="faiss",
        symbol="IndexIVFFlat",
        install="faiss: pip install 'edgewise[approximate]' (faiss-cpu)",
    ),
}


def run_engine(name: str, search: Search) -> tuple[Tensor, Tensor]:
    """Index (N, k) and valid (N, k) by one engine, on the device of ``x``.

    Raises:
        ValueError: if the engine does not take so many columns.
        ImportError: if its package is not installed.
    """
    row = ENGINES[name]
    width = search.x.shape[1]
    if row.most is not None and not row.least <= width <= row.most:
        others = " or ".join(repr(n) for n, other in ENGINES.items() if other.most is None)
        raise UserError(
            f"engine {name!r} takes x with {row.least} to {row.most} columns, got {width}; use "
            f"engine {others}"
        )
    if width < row.least:
        raise UserError(f"engine {name!r} needs x with a column; use engine 'exact'")
    if row.package is not None:
        try:
            getattr(__import__(row.package), row.symbol)
        except (ImportError, AttributeError) as error:
            raise MissingPackage(f"engine {name!r} needs {row.install}") from error
    if not row.on_cpu:
        return row.nearest(search)
    device = search.x.device
    moved = search._replace(x=search.x.cpu(), graph_ptr=search.graph_ptr.cpu())
    index, valid = row.nearest(moved)
    return index.to(device), valid.to(device)
