"""The engine loop and all that it decides with: one thread, one context, many turns at once."""
