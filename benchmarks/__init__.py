"""Measurements side by side with a peer: each file one question, one table, one ratio."""
