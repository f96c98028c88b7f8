"""One file per structure format: its suffixes and its parser."""
