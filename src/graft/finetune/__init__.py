"""Freezing, unfreezing, learning rates and the training itself."""
