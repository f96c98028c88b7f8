"""The network, its latents and its losses."""
