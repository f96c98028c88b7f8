"""Layouts in the plane: gauge, graphs, random walks, metrics."""
