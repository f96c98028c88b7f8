"""Sums and softmax over the in-edges of each node, and the weighted adjacency times a matrix."""
