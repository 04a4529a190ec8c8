"""Messages → tokens: the model's own chat template, and what is remembered of conversations."""
