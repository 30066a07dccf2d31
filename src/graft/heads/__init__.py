"""Fits heads to cached features in memory, without a Trainer: solves linear heads and trains hidden layers."""
