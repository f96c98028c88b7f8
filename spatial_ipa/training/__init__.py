"""Training of gate and model together."""
