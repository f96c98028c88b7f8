"""Files that are complete or absent, places for results, identity of what they hold."""
