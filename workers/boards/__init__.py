"""A node's supervisor: which models it runs workers of, by what waits in the whole cluster, and their lives."""
