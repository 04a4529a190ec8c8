"""`turnpike models`: model files by name, fetched, verified and given to neighbours."""
