"""Scores of layouts, the oracle, regressions beside, figures and reports."""
