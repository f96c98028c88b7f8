"""Coordinates of many cells from a trained model."""
