"""Well-known clients of the OpenAI API before a real gateway, broker, worker and model: `make e2e-clients`."""
