"""k-nearest-neighbour graphs, batched by graph: one function, several engines.

================= ==============================================================================
``"exact"``       every pair, by blocks (:mod:`common.graph.knn.exact`); any width, CPU and GPU
``"kdtree"``      SciPy's KD-tree, then ranked as above (:mod:`~common.graph.knn.trees`); up to 4-D
``"cluster"``     torch-cluster's KD-tree instead; the same result
``"approximate"`` inverted lists of faiss (:mod:`common.graph.knn.approximate`), to a stated recall
``"auto"``        ``kdtree`` or ``exact``, whichever is faster; both give the same graph
================= ==============================================================================
"""

from common.graph.knn.engines import Engine
from common.graph.knn.search import knn_edges, knn_index, knn_recall

__all__ = ["Engine", "knn_edges", "knn_index", "knn_recall"]
