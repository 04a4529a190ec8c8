"""Anthropic's Messages API as a dialect: bodies → turns, an answer's events → content blocks, failures → its errors."""
