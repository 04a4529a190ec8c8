"""The OpenAI API's dialect: bodies → turns, an answer's events → JSON, failures → status and body. Pure."""
