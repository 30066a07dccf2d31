"""Finds, reads, augments and batches images."""
