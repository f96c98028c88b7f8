"""Ensembles to batches: families, splits, embeddings, draws."""
