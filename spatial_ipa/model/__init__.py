"""Gate and invariant-point attention, their minisets, targets and losses."""
