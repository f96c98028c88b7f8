"""Backbone geometry in batched PyTorch: torsions, frames, chain building, constraints, energies."""
