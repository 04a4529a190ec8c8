"""The worker: takes turns from the queue, computes them with llama.cpp many at a time, streams the answers back."""
