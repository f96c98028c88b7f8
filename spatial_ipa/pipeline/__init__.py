"""The whole main job in one command."""
