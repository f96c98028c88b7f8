"""Using a trained network: generate, interpolate, encode; each a Python call and one command."""
