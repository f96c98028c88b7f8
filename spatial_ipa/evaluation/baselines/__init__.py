"""Regression and optimal transport of positions."""
