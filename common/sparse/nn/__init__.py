"""Layers on the kernels, three of them twins of PyG's: swap one import.

============================= ============================================================
:class:`TransformerConv`      as ``torch_geometric.nn.TransformerConv``
:class:`GATv2Conv`            as ``torch_geometric.nn.GATv2Conv``
:class:`PointTransformerConv` as ``torch_geometric.nn.PointTransformerConv``
:class:`PointAttentionConv`   attention of points that moves them, equivariant; our own
============================= ============================================================

A twin has the arguments, the ``state_dict``, the results and the initial weights of PyG's layer,
and drops the same attention weights after the same seed.  Options that the kernels do not serve
are refused by name.  What a twin lacks is what ``MessagePassing`` brings beside a layer: hooks,
``explain``, sparse matrices as edges.  PyG itself is not imported.
"""

from common.sparse.nn.gatv2 import GATv2Conv
from common.sparse.nn.point_attention import PointAttentionConv
from common.sparse.nn.point_transformer import PointTransformerConv
from common.sparse.nn.transformer import TransformerConv

__all__ = ["GATv2Conv", "PointAttentionConv", "PointTransformerConv", "TransformerConv"]
