"""Sweeps, with what Hydra and Optuna do not provide: a ledger of trials that survives the end of any process."""
