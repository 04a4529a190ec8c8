"""Hostile bytes: what strangers may send, at every door of a cluster. `python -m tests.fuzz` sends a million."""

from tests.fuzz.mutants import decode_all, mutants

__all__ = ["decode_all", "mutants"]
