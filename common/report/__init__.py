"""Figures, the machine a figure came from, seconds and memory of stages."""
