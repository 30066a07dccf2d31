"""What is computed once: the store, the folder that runs share, and the engine that computes it."""
