"""`turnpike gateway`: the queue for clients that speak the OpenAI API, and a page to talk on."""
