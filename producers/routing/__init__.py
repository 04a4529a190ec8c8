"""Which model a turn is for: policies, waiting for a model to be served, and the next one where the first cannot."""
