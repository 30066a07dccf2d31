"""Inspects, compares and averages sets of weights."""
