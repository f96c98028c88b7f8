"""Edge features of self-loops, as PyG's ``add_self_loops`` fills them in."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from common.sparse.nn.graph import Loops

FillValue = float | Tensor | str

_REDUCTIONS = {
    "add": "sum",
    "sum": "sum",
    "mean": "mean",
    "min": "amin",
    "max": "amax",
    "mul": "prod",
}


def check_fill_value(layer: str, fill_value: FillValue) -> None:
    if isinstance(fill_value, str) and fill_value not in _REDUCTIONS:
        raise UserError(
            f"{layer}: fill_value must be a number, a tensor or one of {', '.join(_REDUCTIONS)}, "
            f"got {fill_value!r}"
        )


def with_loops(edge_attr: Tensor, loops: Loops, fill_value: FillValue) -> Tensor:
    """Features (E', F) of the edges that are no loops, then of the loops.

    Args:
        edge_attr: (E, F) in the order of the ``edge_index`` given.
        loops: of that ``edge_index``.
        fill_value: a number; F of them; or how the features of the other edges into a node are
            reduced.  A node without such edges gets 0, for ``"mul"`` 1.
    """
    others = edge_attr.index_select(0, loops.others)
    width = others.shape[1]
    if isinstance(fill_value, str):
        into = loops.edge_index[1, : len(others)].long()
        rows = max(loops.nodes, int(into.max()) + 1 if len(into) else 0)
        start = others.new_full((rows, width), 1.0 if fill_value == "mul" else 0.0)
        filled = start.scatter_reduce(
            0,
            into[:, None].expand_as(others),
            others,
            _REDUCTIONS[fill_value],
            include_self=fill_value in ("add", "sum", "mul"),
        )[: loops.nodes]
    elif isinstance(fill_value, Tensor):
        filled = fill_value.to(others).reshape(1, -1).expand(loops.nodes, width)
    else:
        filled = others.new_full((loops.nodes, width), float(fill_value))
    return torch.cat([others, filled])
