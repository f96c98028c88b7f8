"""Shared layer of both models: sparse graph kernels, graph builders, geometry, training plumbing.

Nothing here imports from ``spatial_ipa`` or ``protein_cvae``.
"""
