"""The edge gate: a perceptron on pair features that are never built."""
