"""`turnpike load`: the load generator, its schedules, and its runs."""
