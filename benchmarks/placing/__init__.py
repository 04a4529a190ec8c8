"""Placement by simulation: boards, models, traces, four servers' rules on them, and the fewest swaps there can be."""
