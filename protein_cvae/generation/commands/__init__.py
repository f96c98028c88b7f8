"""lightning predict for each task."""
