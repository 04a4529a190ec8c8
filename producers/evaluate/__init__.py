"""`turnpike eval`: multiple choice over the queue."""
