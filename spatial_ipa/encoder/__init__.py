"""Expression to embeddings H: network, training, the frozen result and its cache."""
