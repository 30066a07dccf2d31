"""Cached features: the store, the folder that runs share, and the inference engine that computes them."""
