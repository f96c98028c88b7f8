"""Simulated tissue, in memory and as files."""
