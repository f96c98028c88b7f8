"""Figures of layouts: true beside predicted, how well positions are known, identifiability."""
