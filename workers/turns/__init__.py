"""A turn's life in a worker: admitted, prefetched, streamed, settled."""
