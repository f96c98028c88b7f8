"""Figures of ensembles and of latent effects."""
