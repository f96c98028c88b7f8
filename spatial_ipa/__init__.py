"""Two-dimensional tissue coordinates of cells from gene expression alone."""
