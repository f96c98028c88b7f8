"""Softmax attention over in-edges, with an equivariant coordinate step."""
