"""A model's queue as a worker sees it: which turn it takes next, and what cancels end before it is taken."""
