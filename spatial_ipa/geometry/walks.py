"""Random-walk operators on a fixed graph.

On the symmetric edges of the target graph, with the stored local scales s,

    w_ij = exp(-|x_i - x_j|^2 / (s_i s_j)),     T_ij = w_ij / sum_j w_ij,

the kernel of self-tuning diffusion (Zelnik-Manor & Perona 2004).  The edge set and s_i s_j are
symmetric, hence so is W, and (W + W^T) / 2 changes nothing.  The same builder serves target and
prediction, so that T_pred equals T_ref where the coordinates agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import edge_log_softmax, spmm


def squared_distance(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(M,) |x_i - x_j|^2 of rows i, j (M,) of x (N, d).

    Rows are taken with ``index_select``: its backward adds in a fixed order, while that of
    ``x[i]`` adds from several threads as they come, which makes no two trainings equal.
    """
    return (x.index_select(0, i) - x.index_select(0, j)).square().sum(1)


@dataclass(frozen=True)
class WalkOperator:
    """A row-stochastic operator T on fixed symmetric edges.

    Attributes:
        edges: N nodes; row i of T belongs to destination i.
        log_t: (E,) log T_ij on edge (source j, destination i).
        t_reverse: (E,) T_ji on the same edge, the weight with which probability at j moves to i.
    """

    edges: EdgeList
    log_t: Tensor
    t_reverse: Tensor

    def row_entropy(self) -> Tensor:
        """(N,) -sum_j T_ij log T_ij, in nats; 0 for a row without edges."""
        terms = -self.log_t.exp() * self.log_t
        return terms.new_zeros(self.edges.num_nodes).index_add(0, self.edges.dst, terms)

    def walk(self, start: Tensor, steps: int) -> list[Tensor]:
        """Rows of T, T^2, ..., T^steps by repeated sparse products.

        Args:
            start: (N, R) one-hot columns; column r of a graph starts at its r-th chosen row.  As
                the graphs of a union are not connected, one column serves all of them at once.
            steps: S.

        Returns:
            S tensors (N, R): entry (j, r) of the s-th is (T^s)[row r of j's graph, j].
        """
        rows = []
        for _ in range(steps):
            start = spmm(self.t_reverse, self.edges, start)
            rows.append(start)
        return rows


def build_predicted_rw_operator(x: Tensor, edges: EdgeList, scale: Tensor) -> WalkOperator:
    """The random-walk operator of coordinates on the edges and scales of the target.

    Args:
        x: (N, 2) coordinates, gauge-fixed.
        edges: the symmetric target graph.
        scale: (N,) local scales of the target.
    """
    d2 = squared_distance(x, edges.dst, edges.src)
    log_w = -d2 / (scale[edges.dst] * scale[edges.src])
    log_t = edge_log_softmax(log_w, edges)
    # log T_ij = log w_ij - log(sum of row i).  W is symmetric, so T_ji differs by row j's sum
    # only, which is read off the first edge of that row.
    first = edges.ptr[:-1].clamp(max=max(edges.num_edges - 1, 0))
    log_sum = (log_w - log_t).index_select(0, first)  # (N,)
    t_reverse = (log_w - log_sum.index_select(0, edges.src)).exp()
    return WalkOperator(edges, log_t, t_reverse)
