"""Ollama's API as a dialect of the gateway: its bodies → turns, an answer's events → lines of JSON. Pure."""
