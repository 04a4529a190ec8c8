"""A conversation at a terminal: what was said and as what it is asked, how it is kept, and what `/` commands do."""
