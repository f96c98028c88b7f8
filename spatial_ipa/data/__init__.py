"""Slides and dissociated samples: files to counts, genes and positions."""
