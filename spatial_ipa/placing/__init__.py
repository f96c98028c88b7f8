"""A trained model and a file of cells in, cells with coordinates out."""
