"""llama.cpp by its C API. The only importer of llama_cpp; only the entry point imports this package."""
