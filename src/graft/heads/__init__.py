"""Heads on kept features, solved in memory: no Trainer, no learning rate, no seed."""
