"""KV states away from the context: which there are, in RAM, on disk and with other workers."""
