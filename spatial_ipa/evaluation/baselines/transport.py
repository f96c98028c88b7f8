"""Positions by optimal transport onto training slides, after novoSpaRc.

Nitzan, Karaiskos, Friedman and Rajewsky, Nature 576:132 (2019); Moriel et al., Nat. Protoc.
16:4177 (2021).  For test cells i, i' and locations j, j' of one training slide the plan T solves
the fused Gromov-Wasserstein problem with uniform marginals and an entropy term,

    min_T  (1 - a) sum |D_ii' - E_jj'|^2 T_ij T_i'j'  +  a sum M_ij T_ij  -  eps H(T),

where D are hop distances on the cells' nearest-neighbour graph in feature space, E distances
between locations, M feature distances between cells and the slide's spots, each over its maximum,
and a is ``alpha_linear``.  Cell i is placed at the mean of its locations, sum_j T_ij x_j / T_i.

With several training slides each gives a layout in its own frame.  All are gauge-fixed, turned or
mirrored onto the one of lowest cost, and averaged: the result does not depend on the slides' poses.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.spatial.distance import cdist
from sklearn.neighbors import kneighbors_graph

from common.errors import MissingPackage, UserError
from spatial_ipa.geometry.gauge import gauge_fix_array, procrustes_rotation

Array = NDArray[np.float64]


def connected_knn_graph(features: np.ndarray, k: int) -> tuple[sp.csr_matrix, int]:
    """Symmetric nearest-neighbour graph, k doubled until it is connected.

    Args:
        features: (n, d), Euclidean.
        k: first neighbourhood size, 1 <= k < n.

    Returns:
        (n, n) CSR adjacency of ones, and the k that connected it.

    Raises:
        ValueError: if k is out of range.
    """
    n = len(features)
    if not 1 <= k < n:
        raise UserError(f"k must lie in [1, n - 1] = [1, {n - 1}], got {k}")
    while True:
        graph = sp.csr_matrix(kneighbors_graph(features, k, mode="connectivity"))
        graph = graph.maximum(graph.T)
        if k == n - 1 or connected_components(graph, directed=False)[0] == 1:
            return graph, k
        k = min(2 * k, n - 1)


def transport_plan(
    cell_distance: Array,
    location_distance: Array,
    feature_distance: Array,
    *,
    alpha_linear: float,
    epsilon: float,
    max_iter: int = 20,
) -> tuple[Array, float]:
    """The plan T and its cost for the module's problem; distances are divided by their maximum.

    Args:
        cell_distance: (n, n) D.
        location_distance: (m, m) E.
        feature_distance: (n, m) M.
        alpha_linear: a in [0, 1]; 0 ignores M, 1 ignores D and E.
        epsilon: entropy weight, positive.
        max_iter: outer iterations.

    Returns:
        (n, m) float64 plan, non-negative, and the cost it was found at.

    Raises:
        ImportError: if POT is not installed.
        ValueError: if alpha_linear or epsilon is out of range.
    """
    if not 0.0 <= alpha_linear <= 1.0:
        raise UserError(f"alpha_linear must lie in [0, 1], got {alpha_linear}")
    if not epsilon > 0.0:
        raise UserError(f"epsilon must be positive, got {epsilon}")
    try:
        import ot
    except ModuleNotFoundError as error:
        raise MissingPackage(
            "the novosparc baseline needs POT: pip install 'edgewise[baselines]'"
        ) from error
    n, m = feature_distance.shape
    scaled = [d / max(float(d.max()), 1e-300) for d in (feature_distance, cell_distance)]
    with warnings.catch_warnings():
        # An inner projection may stop early; the next outer step starts from it, and rows are
        # renormalised when positions are taken.
        warnings.filterwarnings("ignore", message="Sinkhorn did not converge")
        plan, log = ot.gromov.entropic_fused_gromov_wasserstein(
            scaled[0],
            scaled[1],
            location_distance / max(float(location_distance.max()), 1e-300),
            np.full(n, 1.0 / n),
            np.full(m, 1.0 / m),
            alpha=1.0 - alpha_linear,  # POT weighs the Gromov-Wasserstein part
            epsilon=epsilon,
            max_iter=max_iter,
            tol=1e-6,
            log=True,
        )
    return np.asarray(plan, dtype=np.float64), float(log["fgw_dist"])


def transport_layout(
    train_features: Sequence[np.ndarray],
    train_xy: Sequence[np.ndarray],
    test_features: np.ndarray,
    *,
    alpha_linear: float = 0.65,
    epsilon: float = 5e-3,
    k: int = 5,
) -> Array:
    """Place the test cells on every training slide and average the layouts.

    Memory and time grow as n (n + m) and n m (n + m) per training slide: meant for slides of
    hundreds to a few thousand spots.

    Args:
        train_features: (m_s, d) per training slide.
        train_xy: (m_s, 2) per training slide, any pose and unit.
        test_features: (n, d) of the cells to place.
        alpha_linear: weight of the feature distances.
        epsilon: entropy weight.
        k: neighbours of the cell graph, doubled until it is connected.

    Returns:
        (n, 2) float64 layout, up to pose and scale.
    """
    graph, _ = connected_knn_graph(test_features, k)
    hops = shortest_path(graph, directed=False, unweighted=True)
    layouts, costs = [], []
    for features, xy in zip(train_features, train_xy, strict=True):
        locations = gauge_fix_array(xy)
        plan, cost = transport_plan(
            hops,
            cdist(locations, locations),
            cdist(test_features, features),
            alpha_linear=alpha_linear,
            epsilon=epsilon,
        )
        layouts.append(gauge_fix_array(plan @ locations / plan.sum(axis=1, keepdims=True)))
        costs.append(cost)
    reference = layouts[int(np.argmin(costs))]
    turned = [layout @ procrustes_rotation(layout, reference)[0] for layout in layouts]
    return np.asarray(np.mean(turned, axis=0), dtype=np.float64)
