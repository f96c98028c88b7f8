"""From a bare clone to a running job; standard library only."""
