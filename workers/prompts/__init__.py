"""Messages → tokens: the model's own chat template, rendered in a sandbox, and what is remembered of conversations."""
