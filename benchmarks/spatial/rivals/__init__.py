"""Published rivals in environments of their own; see :mod:`rivals.methods`."""
