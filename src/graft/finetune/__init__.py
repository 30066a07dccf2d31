"""Freezing, thawing, learning rates and the training itself."""
