"""Hierarchical conditional VAE over protein conformational ensembles (not implemented yet)."""
