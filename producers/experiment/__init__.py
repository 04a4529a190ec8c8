"""`turnpike experiment`: the paper's table and figures, for a list of models."""
