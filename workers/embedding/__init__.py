"""Vectors of texts: an engine of its own beside the one that writes, in a worker that has nothing else to do."""
