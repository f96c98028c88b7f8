"""Edge lists, memory order and k-nearest-neighbour search."""
