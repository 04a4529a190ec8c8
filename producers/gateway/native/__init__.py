"""llama-server's own API: completions in its shape, fill in the middle, tokens, and what it tells of itself."""
