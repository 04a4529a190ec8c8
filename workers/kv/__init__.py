"""The KV cache's tiers below the context: conversations' states in RAM, on disk and with other workers."""
