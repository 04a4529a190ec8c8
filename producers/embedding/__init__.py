"""`turnpike embed`: the vectors of a file of texts."""
